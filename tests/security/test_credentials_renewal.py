"""A revoked credential of the gateway is renewed at once, for all requests that were refused with it, and only once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.gateway import Gateway, gateway
from wire.aws_sources import ROLE, WEB_TOKEN, Sources, bare_machine, in_container, sources

from bud_asgi import Bedrock, Vertex
from bud_asgi.providers.refresher import FORCED_REFRESH_INTERVAL, MAX_FORCED_REFRESHES
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing import bedrock as aws
from bud_asgi.testing import vertex as google
from bud_asgi.testing.google import PROJECT, Google


class Stage(msgspec.Struct):
    """A gateway with renewable credentials: `revoke` ends all issued so far, `fetches` counts those issued."""

    here: Gateway
    upstream: ThreadedStandIn
    revoke: Callable[[], None]
    fetches: Callable[[], int]

    def at_once(self, count: int) -> list[int]:
        with ThreadPoolExecutor(count) as pool:
            return [future.result().status_code for future in [pool.submit(self.here.post) for _ in range(count)]]


@contextmanager
def vertex(home: Path, _patch: pytest.MonkeyPatch) -> Generator[Stage]:
    """Vertex AI with a service account's key."""
    there = Google()
    service = StandIn.of(google.Vertex(tokens=there.tokens))
    with StandIn.of(there).in_thread() as tokens, service.in_thread() as upstream:
        key = home / "key.json"
        key.write_text(json.dumps(there.account.info(tokens.base_url)))
        provider = Vertex(project=PROJECT, base_url=upstream.base_url, service_account_file=key)
        with gateway("", providers=[provider]) as here:
            yield Stage(here, upstream, there.tokens.expire, lambda: len(tokens.requests))
            here.assert_nothing_open()


@contextmanager
def bedrock(there: Sources, **options: Any) -> Generator[Stage]:
    with StandIn.of(aws.Bedrock(keys=there.keys)).in_thread() as upstream:
        provider = Bedrock(region="us-east-1", endpoint=upstream.base_url, **options)
        with gateway("", providers=[provider]) as here:
            yield Stage(here, upstream, there.keys.expire, lambda: len(there.asked))
            here.assert_nothing_open()


@contextmanager
def container(home: Path, patch: pytest.MonkeyPatch) -> Generator[Stage]:
    """Bedrock with AWS's chain: a container's credentials endpoint."""
    bare_machine(patch, home)
    with sources() as there:
        in_container(patch, there)
        with bedrock(there) as stage:
            yield stage


@contextmanager
def role(home: Path, patch: pytest.MonkeyPatch) -> Generator[Stage]:
    """Bedrock with a role that is assumed with long-lived keys."""
    bare_machine(patch, home)
    with sources() as there:
        patch.setenv("AWS_ENDPOINT_URL_STS", there.base_url)
        key = there.keys.issue()
        with bedrock(there, role_arn=ROLE, access_key=key.access_key, secret_key=key.secret_key) as stage:
            yield stage


@contextmanager
def web_identity(home: Path, patch: pytest.MonkeyPatch) -> Generator[Stage]:
    """Bedrock with AWS's chain: a web identity, as in a Kubernetes cluster."""
    bare_machine(patch, home)
    (home / "web").write_text(WEB_TOKEN)
    with sources() as there:
        patch.setenv("AWS_ENDPOINT_URL_STS", there.base_url)
        patch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "web"))
        patch.setenv("AWS_ROLE_ARN", ROLE)
        with bedrock(there) as stage:
            yield stage


Way = Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[Stage]]
WAYS: tuple[Way, ...] = (vertex, container, role, web_identity)
IDS = [way.__name__ for way in WAYS]


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_credentials_that_are_revoked_again_and_again_within_seconds_cost_no_request(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with way(tmp_path, monkeypatch) as stage:
        assert stage.here.post().status_code == 200
        for revocations, count in enumerate((30, 5, 5), 1):
            stage.revoke()
            assert stage.at_once(count) == [200] * count
            assert stage.fetches() == 1 + revocations


@pytest.mark.parametrize("way", WAYS[:2], ids=IDS[:2])
def test_an_upstream_that_refuses_every_credential_causes_no_storm(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetches are bounded, and no request is sent more than twice."""
    refusal = google.token_expired() if way is vertex else aws.aws_error("ExpiredTokenException", "expired")
    with way(tmp_path, monkeypatch) as stage:
        stage.upstream.always(refusal)
        began = time.monotonic()
        for _ in range(8):
            assert stage.at_once(4) == [502] * 4
        intervals = 1 + (time.monotonic() - began) // FORCED_REFRESH_INTERVAL
        assert stage.fetches() <= 1 + MAX_FORCED_REFRESHES * intervals
        assert len(stage.upstream.requests) <= 2 * 32


def test_those_refused_before_during_and_after_a_fetch_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_machine(monkeypatch, tmp_path)
    with sources() as there, ThreadPoolExecutor(30) as pool:
        in_container(monkeypatch, there)
        with bedrock(there) as stage:
            assert stage.here.post().status_code == 200
            there.delay = 0.3
            stage.revoke()
            replies: list[Future[httpx.Response]] = []
            for _ in range(30):
                replies.append(pool.submit(stage.here.post))
                time.sleep(0.02)
            assert [reply.result().status_code for reply in replies] == [200] * 30
            assert stage.fetches() == 2
