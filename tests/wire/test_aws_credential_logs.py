"""With logging at DEBUG everywhere, fetching AWS keys writes none of them to a log."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from aws_sources import CONTAINER_TOKEN, ROLE, SSO_TOKEN, WEB_TOKEN, Sources, bare_machine, in_container, sources
from aws_ways import (
    explicit,
    use_container,
    use_instance_metadata,
    use_process,
    use_profile,
    use_role_by_container,
    use_role_by_keys,
    use_role_of_profile,
    use_sso,
    use_web_identity,
)
from support.waiting import until

from bud_asgi.http import HttpRequest, Origin
from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.testing.bedrock.keys import AwsKey

REQUEST = HttpRequest(Origin("h", 80), b"POST", b"/", ())
TOKENS = (CONTAINER_TOKEN, WEB_TOKEN, SSO_TOKEN)


@pytest.fixture(scope="module")
def _served() -> Generator[Sources]:
    with sources() as stand_in:
        yield stand_in


@pytest.fixture
def issued() -> list[AwsKey]:
    return []


@pytest.fixture
def aws(_served: Sources, issued: list[AwsKey], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sources:
    """The sources, as if just started, on a machine without AWS configuration; `issued` collects every key."""
    bare_machine(monkeypatch, tmp_path)
    _served.reset()
    for name in ("issue", "issue_temporary"):
        issue = getattr(_served.keys, name)

        def issue_and_note(*arguments: Any, issue: Any = issue) -> AwsKey:
            key: AwsKey = issue(*arguments)
            issued.append(key)
            return key

        monkeypatch.setattr(_served.keys, name, issue_and_note)
    return _served


def secrets_of(keys: list[AwsKey]) -> list[str]:
    return [secret for key in keys for secret in (key.secret_key, key.session_token) if secret]


@pytest.mark.parametrize(
    "use",
    [
        use_container,
        use_instance_metadata,
        use_process,
        use_profile,
        use_role_by_container,
        use_role_by_keys,
        use_role_of_profile,
        use_sso,
        use_web_identity,
    ],
)
async def test_no_source_logs_its_keys(
    use: Any,
    aws: Sources,
    issued: list[AwsKey],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    credential = AwsCredential(region="us-east-1", **use(aws, tmp_path, monkeypatch))
    with caplog.at_level(logging.DEBUG):
        await credential.apply(REQUEST, {})
    assert issued
    logged = "\n".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert not any(secret in logged for secret in (*secrets_of(issued), *TOKENS))


async def test_the_hosts_own_debug_lines_of_botocore_are_kept(
    aws: Sources, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The filter is for the fetching thread alone, and is gone after the fetch."""
    in_container(monkeypatch, aws)
    aws.delay = 0.3
    logger = logging.getLogger("botocore.parsers")
    with caplog.at_level(logging.DEBUG):
        fetch = asyncio.create_task(AwsCredential(region="us-east-1").apply(REQUEST, {}))
        await until(lambda: bool(logger.filters))
        logger.debug("a line of the host's own client")
        await fetch
    assert "a line of the host's own client" in caplog.messages
    assert not logger.filters


PROGRAM = """
import asyncio, logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from bud_asgi.http import HttpRequest, Origin
from bud_asgi.providers.bedrock.credential import AwsCredential
access_key, secret_key, session_token, role = sys.argv[1:]
credential = AwsCredential(
    region="us-east-1", access_key=access_key, secret_key=secret_key, session_token=session_token, role_arn=role
)
asyncio.run(credential.apply(HttpRequest(Origin("h", 80), b"POST", b"/", ()), {}))
print("signed")
"""


def test_the_first_fetch_of_a_process_logs_no_keys_either(
    aws: Sources, issued: list[AwsKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", aws.base_url)
    base = explicit(aws.keys.issue_temporary())
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *base.values(), ROLE],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert ran.stdout.endswith("signed\n")
    assert len(issued) == 2
    assert not any(secret in ran.stdout + ran.stderr for secret in secrets_of(issued))
