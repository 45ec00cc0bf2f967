"""Credentials objects of the host, as boto3 and botocore make them: used, read again, refreshed by themselves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3  # pyright: ignore[reportMissingTypeStubs]
import pytest
from aws_sources import bare_machine
from botocore.credentials import Credentials, ReadOnlyCredentials, RefreshableCredentials
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples
from support.gateway import gateway

from bud_asgi import Bedrock
from bud_asgi.http import Engine, HttpRequest, Origin, read_body
from bud_asgi.providers import UpstreamUnavailable
from bud_asgi.providers.bedrock.chain import HOST_CHECK_INTERVAL, HostCredentials, seconds_left
from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.providers.refresher import RefreshTiming
from bud_asgi.testing import StandIn, ThreadedStandIn, bedrock
from bud_asgi.testing.bedrock.keys import AwsKey, AwsKeys

HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1%3A0"
BODY = b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":9,"messages":[{"role":"user","content":"Hello"}]}'


@pytest.fixture
def keys() -> AwsKeys:
    return AwsKeys()


@pytest.fixture
def upstream(keys: AwsKeys) -> Generator[ThreadedStandIn]:
    """A Bedrock that checks signatures against `keys`."""
    with StandIn.of(bedrock.Bedrock(keys=keys)).in_thread() as stand_in:
        yield stand_in


class Host:
    """Makes refreshable credentials as a host does, and counts the refreshes."""

    def __init__(self, keys: AwsKeys, lifetime: float = 3600.0) -> None:
        self.keys = keys
        self.lifetime = lifetime
        self.refreshes = 0
        self.threads: set[str] = set()
        self.fault: Exception | None = None

    def credentials(self) -> RefreshableCredentials:
        return RefreshableCredentials.create_from_metadata(self.metadata(), self._refresh, "host")

    def metadata(self) -> dict[str, str]:
        key = self.keys.issue_temporary(self.lifetime + 0.5)
        end = datetime.now(UTC) + timedelta(seconds=self.lifetime)
        return {
            "access_key": key.access_key,
            "secret_key": key.secret_key,
            "token": str(key.session_token),
            "expiry_time": end.isoformat(),
        }

    def _refresh(self) -> dict[str, str]:
        self.refreshes += 1
        self.threads.add(threading.current_thread().name)
        if self.fault is not None:
            raise self.fault
        return self.metadata()


class Clock:
    """The wall clock of the gateway, `ahead` seconds later."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def request_to(upstream: ThreadedStandIn) -> HttpRequest:
    headers = ((b"content-type", b"application/json"),)
    return HttpRequest(Origin("127.0.0.1", upstream.port), b"POST", f"/model/{HAIKU}/invoke".encode(), headers, BODY)


async def ask(credential: AwsCredential, upstream: ThreadedStandIn) -> int:
    """The status that a request gets with a credential; 200 only for a valid signature."""
    engine = Engine()
    try:
        reply = await engine.send(await credential.apply(request_to(upstream), {}))
        await read_body(reply, 1 << 20)
        reply.close()
        return reply.status
    finally:
        await engine.aclose()


def of_host(credentials: HostCredentials, timing: RefreshTiming | None = None) -> AwsCredential:
    return AwsCredential(region="us-east-1", credentials=credentials, timing=timing)


def test_a_boto3_sessions_credentials_sign_requests_of_the_provider(
    keys: AwsKeys, upstream: ThreadedStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare_machine(monkeypatch, tmp_path)
    key = keys.issue_temporary()
    session = boto3.Session(key.access_key, key.secret_key, key.session_token)
    credentials = session.get_credentials()
    assert credentials is not None
    provider = Bedrock(region="us-east-1", endpoint=upstream.base_url, credentials=credentials)
    with gateway("", providers=[provider]) as here:
        assert here.post().status_code == 200
        assert here.post().status_code == 200
        here.assert_nothing_open()


async def test_keys_that_expire_are_refreshed_by_the_object_and_no_request_fails(
    keys: AwsKeys, upstream: ThreadedStandIn
) -> None:
    host = Host(keys, lifetime=2.0)
    credential = of_host(host.credentials())
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert await ask(credential, upstream) == 200
        await asyncio.sleep(0.02)
    used = {(one.header("authorization") or b"").split(b"/")[0] for one in upstream.requests}
    assert len(used) >= 2
    assert host.refreshes >= 2
    assert host.threads == {"bud_asgi AWS keys"}


async def test_the_object_is_read_in_a_thread_once_a_minute_and_not_for_each_request(
    keys: AwsKeys, upstream: ThreadedStandIn
) -> None:
    key = keys.issue()
    threads: list[str] = []

    class Asked(Credentials):
        def get_frozen_credentials(self) -> ReadOnlyCredentials:
            threads.append(threading.current_thread().name)
            return super().get_frozen_credentials()

    clock = Clock()
    credential = of_host(Asked(key.access_key, key.secret_key), RefreshTiming(clock=clock))
    for _ in range(5):
        await credential.apply(request_to(upstream), {})
    assert threads == ["bud_asgi AWS keys"]
    assert await ask(credential, upstream) == 200
    clock.ahead = HOST_CHECK_INTERVAL + 1
    for _ in range(5):
        await credential.apply(request_to(upstream), {})
    assert threads == ["bud_asgi AWS keys"] * 2


async def test_after_a_refusal_the_object_is_read_at_once(keys: AwsKeys, upstream: ThreadedStandIn) -> None:
    holder: list[AwsKey] = [keys.issue_temporary()]

    class Rotating:
        """An object of the host's own, with nothing but the method."""

        def get_frozen_credentials(self) -> ReadOnlyCredentials:
            return ReadOnlyCredentials(holder[0].access_key, holder[0].secret_key, holder[0].session_token)

    credential = of_host(Rotating())
    assert await ask(credential, upstream) == 200
    sent = await credential.apply(request_to(upstream), {})
    keys.expire()
    assert await ask(credential, upstream) == 403
    holder[0] = keys.issue_temporary()
    assert await credential.refresh(sent)
    assert await ask(credential, upstream) == 200


async def test_an_object_that_cannot_refresh_is_a_failure_without_its_secrets(
    keys: AwsKeys, upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(keys, lifetime=60.0)
    credentials = host.credentials()
    host.fault = RuntimeError("no network")
    with pytest.raises(UpstreamUnavailable):
        await of_host(credentials).apply(request_to(upstream), {})
    assert 'could not refresh AWS credentials for "bedrock" (RuntimeError: no network)' in caplog.text


@given(st.floats(1.0, 1e6))
@examples(50, 2_000)
def test_the_expiry_is_found_through_botocores_public_method(seconds: float) -> None:
    now = datetime.now(UTC)
    credentials = RefreshableCredentials(
        "a", "s", "t", now + timedelta(seconds=seconds), dict, "host", time_fetcher=lambda: now
    )
    assert abs(seconds_left(credentials) - seconds) <= 0.1


def test_keys_without_an_expiry_never_expire() -> None:
    assert seconds_left(Credentials("a", "s")) == float("inf")
