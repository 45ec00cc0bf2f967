"""Every source of AWS keys, against real endpoints: signatures are accepted, keys are refreshed before they expire."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from aws_sources import CONTAINER_TOKEN, ROLE, SSO_TOKEN, WEB_TOKEN, Sources, bare_machine, in_container, sources
from aws_ways import (
    explicit,
    profile,
    use_container,
    use_container_token_file,
    use_environment,
    use_instance_metadata,
    use_keys,
    use_process,
    use_profile,
    use_profile_of_environment,
    use_role_by_container,
    use_role_by_keys,
    use_role_by_profile,
    use_role_of_profile,
    use_shared_file,
    use_sso,
    use_web_identity,
)
from support.gateway import gateway
from support.impatient import impatient
from support.waiting import until, wait_until

from bud_asgi.http import Engine, HttpRequest, Origin, read_body
from bud_asgi.providers import Bedrock, UpstreamUnavailable
from bud_asgi.providers.bedrock.chain import THREAD_NAME
from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.providers.refresher import RefreshTiming
from bud_asgi.testing import StandIn, ThreadedStandIn, bedrock
from bud_asgi.testing.bedrock import AwsKey

T = TypeVar("T")

HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1%3A0"
BODY = b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{"role":"user","content":"Hello"}]}'


@pytest.fixture(scope="module")
def _served() -> Generator[Sources]:
    with sources() as stand_in:
        yield stand_in


@pytest.fixture
def aws(_served: Sources) -> Sources:
    """The sources, as if just started."""
    _served.reset()
    return _served


@pytest.fixture
def upstream(aws: Sources) -> Generator[ThreadedStandIn]:
    """Bedrock, which takes the keys of the sources."""
    with StandIn.of(bedrock.Bedrock(keys=aws.keys)).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, aws: Sources) -> Generator[Path]:
    """A machine without AWS configuration; no thread that fetches outlives the test."""
    bare_machine(monkeypatch, tmp_path)
    yield tmp_path
    aws.fault = None
    wait_until(lambda: not fetching(), "a thread still fetches keys", timeout=30)


def fetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def request_to(upstream: ThreadedStandIn, body: bytes = BODY) -> HttpRequest:
    origin = Origin("127.0.0.1", upstream.port)
    headers = ((b"content-type", b"application/json"), (b"user-agent", b"bud_asgi"))
    return HttpRequest(origin, b"POST", f"/model/{HAIKU}/invoke".encode(), headers, body)


async def send(sent: HttpRequest) -> int:
    """The status of the reply; 200 only for a valid signature."""
    engine = Engine()
    try:
        reply = await engine.send(sent)
        await read_body(reply, 1 << 20)
        reply.close()
        return reply.status
    finally:
        await engine.aclose()


async def ask(credential: AwsCredential, upstream: ThreadedStandIn, body: bytes = BODY) -> int:
    return await send(await credential.apply(request_to(upstream, body), {}))


async def refresh(credential: AwsCredential, upstream: ThreadedStandIn) -> bool:
    """Refresh as after a refusal of the current keys."""
    return await credential.refresh(await credential.apply(request_to(upstream), {}))


WAYS = {
    use_environment: [],
    use_shared_file: [],
    use_profile: [],
    use_profile_of_environment: [],
    use_keys: [],
    use_process: [],
    use_container: ["container"],
    use_container_token_file: ["container"],
    use_instance_metadata: ["metadata"],
    use_web_identity: ["AssumeRoleWithWebIdentity"],
    use_sso: ["sso"],
    use_role_of_profile: ["AssumeRole"],
    use_role_by_keys: ["AssumeRole"],
    use_role_by_container: ["container", "AssumeRole"],
    use_role_by_profile: ["AssumeRole"],
}


@pytest.mark.parametrize("use", WAYS, ids=lambda use: use.__name__)
async def test_keys_from_every_source_sign_requests_that_are_accepted(
    use: Any, aws: Sources, upstream: ThreadedStandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = AwsCredential(region="us-east-1", **use(aws, home, monkeypatch))
    assert [await ask(credential, upstream), await ask(credential, upstream)] == [200, 200]
    assert aws.asked == WAYS[use]


async def test_a_role_is_assumed_with_the_given_options(
    aws: Sources, upstream: ThreadedStandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await ask(AwsCredential(region="us-east-1", **use_role_by_keys(aws, home, monkeypatch)), upstream) == 200
    assert (
        await ask(AwsCredential(region="us-east-1", **use_role_by_container(aws, home, monkeypatch)), upstream) == 200
    )
    named, plain = aws.roles
    assert (named["RoleArn"], named["ExternalId"], named["RoleSessionName"]) == (ROLE, "ours:42", "gateway-1")
    assert plain["RoleSessionName"] == "bud_asgi"
    assert "ExternalId" not in plain


async def test_sts_is_called_in_the_machines_configured_region(
    aws: Sources, upstream: ThreadedStandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    aws.region = "eu-central-1"
    assert await ask(AwsCredential(region="us-east-1", **use_role_by_keys(aws, home, monkeypatch)), upstream) == 200


async def test_a_bearer_token_is_sent_as_it_is(upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await ask(AwsCredential(region="us-east-1", bearer_token="bedrock-api-key-stand-in"), upstream) == 200
    assert await ask(AwsCredential(region="us-east-1", bearer_token="another"), upstream) == 403
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-stand-in")
    assert await ask(AwsCredential(region="us-east-1"), upstream) == 200


async def test_a_large_body_is_signed_too(aws: Sources, upstream: ThreadedStandIn) -> None:
    body = BODY.replace(b"Hello", b"Hello " * 400_000)
    assert await ask(AwsCredential(region="us-east-1", **explicit(aws.keys.issue())), upstream, body) == 200


# Expiry, failures, hanging endpoints.


async def test_the_first_fifty_share_one_fetch(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    credential = AwsCredential(region="us-east-1")
    assert await asyncio.gather(*(ask(credential, upstream) for _ in range(50))) == [200] * 50
    assert aws.asked == ["container"]


async def test_keys_that_expire_are_refreshed_and_no_request_fails(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    aws.lifetime = 2.0
    credential = AwsCredential(region="us-east-1")
    assert await ask(credential, upstream) == 200
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert await ask(credential, upstream) == 200
        await asyncio.sleep(0.02)
    used = {(one.header("authorization") or b"").split(b"/")[0] for one in upstream.requests}
    assert len(used) >= 3


async def test_refused_keys_are_replaced_by_one_fetch(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    credential = AwsCredential(region="us-east-1")
    assert await ask(credential, upstream) == 200
    aws.keys.expire()

    async def once_more() -> tuple[int, bool, int]:
        sent = await credential.apply(request_to(upstream), {})
        return await send(sent), await credential.refresh(sent), await ask(credential, upstream)

    assert await asyncio.gather(*(once_more() for _ in range(50))) == [(403, True, 200)] * 50
    assert aws.asked == ["container"] * 2


async def test_a_refresh_that_returns_the_same_keys_is_false(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    aws.always = aws.keys.issue_temporary()
    credential = AwsCredential(region="us-east-1")
    assert await ask(credential, upstream) == 200
    assert [await refresh(credential, upstream) for _ in range(3)] == [False] * 3
    assert aws.asked == ["container"] * 2


async def test_a_rotated_file_is_read_again(aws: Sources, upstream: ThreadedStandIn, home: Path) -> None:
    (home / "credentials").write_text(profile("default", AwsKey("AKIAGONE", "gone", "arn")))
    credential = AwsCredential(region="us-east-1")
    assert await ask(credential, upstream) == 403
    (home / "credentials").write_text(profile("default", aws.keys.issue()))
    assert await refresh(credential, upstream)
    assert await ask(credential, upstream) == 200


async def test_a_refresh_that_fails_keeps_the_current_keys(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    credential = AwsCredential(region="us-east-1")
    assert await ask(credential, upstream) == 200
    aws.fault = "hang"
    with impatient(credential, 0.2):
        assert not await refresh(credential, upstream)
    assert await ask(credential, upstream) == 200


ENDPOINTS = [
    *itertools.product((use_container, use_role_by_keys), ("hang", "500", "garbage", "incomplete", "expired")),
    *itertools.product((use_instance_metadata, use_web_identity, use_sso), ("hang", "garbage")),
]


@pytest.mark.parametrize(("use", "fault"), ENDPOINTS)
async def test_the_fault_of_an_endpoint_is_logged_and_not_sent_to_the_client(
    use: Any,
    fault: str,
    aws: Sources,
    upstream: ThreadedStandIn,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    timing = RefreshTiming(timeout=0.3 if fault == "hang" else 30.0)
    credential = AwsCredential(region="us-east-1", timing=timing, **use(aws, home, monkeypatch))
    aws.fault = fault
    with caplog.at_level(logging.WARNING, "bud_asgi"), pytest.raises(UpstreamUnavailable) as failed:
        await credential.apply(request_to(upstream), {})
    assert (failed.value.status, failed.value.type, failed.value.not_sent) == (502, "api_error", True)
    assert str(failed.value) == "upstream authentication failed"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "bud_asgi"]
    assert line.startswith('could not refresh AWS credentials for "bedrock" (')
    assert str(failed.value.__cause__) in line
    assert not any(token in line for token in (CONTAINER_TOKEN, WEB_TOKEN, SSO_TOKEN))
    if fault == "hang":
        assert "(no result within 0.3 s)" in line
        wait_until(lambda: aws.left == len(aws.asked), "the caller has not left")


async def test_expired_keys_of_the_instance_are_still_used(
    aws: Sources, upstream: ThreadedStandIn, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS's libraries do so while the metadata service fails to issue new ones: the upstream decides."""
    aws.fault = "expired"
    credential = AwsCredential(region="us-east-1", **use_instance_metadata(aws, home, monkeypatch))
    assert await ask(credential, upstream) == 403


async def test_a_chain_without_keys_is_a_failure(upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UpstreamUnavailable):
        await AwsCredential(region="us-east-1").apply(request_to(upstream), {})
    with pytest.raises(UpstreamUnavailable):
        await AwsCredential(region="us-east-1", profile="unknown").apply(request_to(upstream), {})
    assert "found no credentials" in caplog.text
    assert "The config profile (unknown) could not be found" in caplog.text


async def test_an_endpoint_that_recovers_is_called_again(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    credential = AwsCredential(region="us-east-1")
    aws.fault = "hang"
    failures = [credential.apply(request_to(upstream), {}) for _ in range(20)]
    with impatient(credential, 0.2):
        outcomes = await asyncio.gather(*failures, return_exceptions=True)
    assert {type(each) for each in outcomes} == {UpstreamUnavailable}
    assert len(aws.asked) <= 1
    aws.fault = None
    await asyncio.sleep(1.1)
    assert await ask(credential, upstream) == 200


async def test_a_hanging_endpoint_does_not_delay_other_credentials(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    aws.fault = "hang"
    patient = AwsCredential(region="us-east-1", timing=RefreshTiming(timeout=60.0))
    hanging = asyncio.create_task(patient.apply(request_to(upstream), {}))
    await until(lambda: aws.asked == ["container"])
    assert await ask(AwsCredential(region="us-east-1", **explicit(aws.keys.issue())), upstream) == 200
    assert not hanging.done()
    aws.fault = None
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging


async def test_a_cancelled_request_does_not_disturb_those_that_wait(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    aws.delay = 0.3
    credential = AwsCredential(region="us-east-1")
    waiting = [asyncio.create_task(ask(credential, upstream)) for _ in range(10)]
    await until(lambda: aws.asked == ["container"])
    for task in waiting[:5]:
        task.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in outcomes[:5]] == [asyncio.CancelledError] * 5
    assert outcomes[5:] == [200] * 5
    assert aws.asked == ["container"]


@pytest.mark.parametrize("by_role", [False, True])
async def test_a_process_that_exceeds_the_timeout_is_killed(
    by_role: bool, upstream: ThreadedStandIn, home: Path
) -> None:
    script = home / "hangs.sh"
    script.write_text(f"read line\necho $$ > {home / 'pid'}\nexec sleep 60\n")
    role = f"role_arn = {ROLE}\nsource_profile = base\n[profile base]\n" if by_role else ""
    command = shlex.join(["/bin/sh", str(script)])
    (home / "config").write_text(f"[profile work]\n{role}credential_process = {command}\n")
    credential = AwsCredential(region="us-east-1", profile="work", timing=RefreshTiming(timeout=2.0))
    with pytest.raises(UpstreamUnavailable, match="authentication failed"):
        await credential.apply(request_to(upstream), {})
    pid = int((home / "pid").read_text())
    wait_until(lambda: not fetching(), "the thread still waits for the process")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_no_mfa_code_is_prompted_for(
    aws: Sources,
    upstream: ThreadedStandIn,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = use_role_of_profile(aws, home, monkeypatch)
    config = (home / "config").read_text()
    (home / "config").write_text(config.replace("source_profile", "mfa_serial = arn:aws:iam::1:mfa/me\nsource_profile"))
    with pytest.raises(UpstreamUnavailable):
        await AwsCredential(region="us-east-1", **options).apply(request_to(upstream), {})
    assert "needs an MFA code" in caplog.text
    assert aws.asked == []


# Event loops.


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop


def in_a_loop(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


@pytest.mark.parametrize("use", [use_container, use_process, use_role_by_keys])
def test_one_credential_serves_loops_one_after_another(
    use: Any,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    aws: Sources,
    upstream: ThreadedStandIn,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credential = AwsCredential(region="us-east-1", **use(aws, home, monkeypatch))

    async def twice() -> tuple[int, bool, int]:
        return await ask(credential, upstream), await refresh(credential, upstream), await ask(credential, upstream)

    first = in_a_loop(new_loop, twice)
    second = in_a_loop(new_loop, lambda: ask(credential, upstream))
    assert (first, second) == ((200, use is not use_process, 200), 200)
    assert len(aws.asked) == (0 if use is use_process else 2)


def test_loops_side_by_side_have_a_fetch_each(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    aws: Sources,
    upstream: ThreadedStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_container(monkeypatch, aws)
    aws.delay = 0.2
    credential = AwsCredential(region="us-east-1")

    async def many() -> list[int]:
        return await asyncio.gather(*(ask(credential, upstream) for _ in range(10)))

    with ThreadPoolExecutor() as pool:
        outcomes = [pool.submit(in_a_loop, new_loop, many) for _ in range(3)]
        assert [each.result() for each in outcomes] == [[200] * 10] * 3
    assert 1 <= len(aws.asked) <= 3


@pytest.mark.parametrize("use", [use_container, use_role_by_keys, use_web_identity])
def test_a_loop_that_ends_leaves_nothing_behind(
    use: Any,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    aws: Sources,
    upstream: ThreadedStandIn,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credential = AwsCredential(region="us-east-1", timing=RefreshTiming(timeout=4.0), **use(aws, home, monkeypatch))
    aws.fault = "hang"

    async def left_waiting() -> asyncio.Task[HttpRequest]:
        task = asyncio.create_task(credential.apply(request_to(upstream), {}))
        await until(lambda: len(aws.asked) == 1)
        return task

    task = in_a_loop(new_loop, left_waiting)
    assert task.cancelled()
    gc.collect()  # what was not closed would warn now, and warnings are errors
    wait_until(lambda: aws.left == 1, "the endpoint's caller is still there")
    aws.fault = None
    assert in_a_loop(new_loop, lambda: ask(credential, upstream)) == 200


def test_a_loop_that_ends_kills_the_process_that_it_waits_for(
    new_loop: Callable[[], asyncio.AbstractEventLoop], upstream: ThreadedStandIn, home: Path
) -> None:
    (home / "hangs.sh").write_text(f"echo $$ > {home / 'pid'}\nexec sleep 60\n")
    (home / "config").write_text(f"[default]\ncredential_process = /bin/sh {home / 'hangs.sh'}\n")

    async def leave_waiting() -> None:
        waiting = asyncio.create_task(AwsCredential(region="us-east-1").apply(request_to(upstream), {}))
        await until(lambda: (home / "pid").exists() and (home / "pid").read_text().endswith("\n"))
        assert not waiting.done()

    in_a_loop(new_loop, leave_waiting)
    wait_until(lambda: not fetching(), "the thread still waits for the process")
    with pytest.raises(ProcessLookupError):
        os.kill(int((home / "pid").read_text()), 0)


# Behind the endpoint.


def test_clients_see_nothing_of_keys_that_expire(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    with gateway("", providers=[Bedrock(region="us-east-1", endpoint=upstream.base_url)]) as here:
        assert here.post().status_code == 200
        aws.keys.expire()
        with ThreadPoolExecutor(10) as pool:
            replies = [pool.submit(here.post) for _ in range(20)]
            assert {reply.result().status_code for reply in replies} == {200}
        assert aws.asked == ["container"] * 2
        here.assert_nothing_open()


def test_clients_learn_only_that_authentication_failed(
    aws: Sources, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, aws)
    aws.fault = "hang"
    provider = Bedrock(region="us-east-1", endpoint=upstream.base_url)
    provider.credential = AwsCredential(region="us-east-1", timing=RefreshTiming(timeout=0.3))
    with gateway("", providers=[provider]) as here:
        reply = here.post()
        assert reply.status_code == 502
        assert reply.json()["error"] == {"type": "api_error", "message": "upstream authentication failed"}
        assert here.account().attempts[0].failure == "no result within 0.3 s"
        here.assert_nothing_open()
    assert upstream.requests == []
