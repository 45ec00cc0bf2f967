"""What a finished request leaves behind: no body, no entry, whatever its callback and its identity do."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from typing import Any

import pytest
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.requests import HTTPConnection
from support.access import access_records
from support.asgi import VERSION, Receiving, Sent, chunks, http_scope
from support.calls import BODY
from support.memory import request_body_bytes

from bud_asgi import Anonymous, Anthropic, Exchange, MessagesApp, Principal, tasks
from bud_asgi.options import OptionError
from bud_asgi.testing import StandIn

MB = 1 << 20


async def post(messages: MessagesApp, body: bytes) -> Sent:
    sent = Sent()
    await messages(http_scope([VERSION]), Receiving(*chunks(body[:MB], body[MB:])), sent)
    return sent


async def test_a_callback_that_hangs_retains_no_request_body() -> None:
    finished: list[Exchange] = []

    async def hang(exchange: Exchange) -> None:
        finished.append(exchange)
        await asyncio.get_running_loop().create_future()

    async with StandIn(strict=False) as upstream:
        provider = Anthropic(api_key=upstream.api_key, base_url=upstream.base_url)
        messages = MessagesApp(auth=Anonymous(), providers=[provider], on_settled=hang)
        sent = json.dumps({**BODY, "system": "x" * (4 * MB)}).encode()
        tracemalloc.start()
        try:
            for _ in range(5):
                assert (await post(messages, sent)).status == 200
                upstream.requests.clear()
            await asyncio.sleep(0)
            assert len(finished) == 5
            assert request_body_bytes() < 100_000
        finally:
            tracemalloc.stop()
        assert messages._revisions.current.bodies.held == 0
        for resources, _ in messages._loops._by_loop.values():
            await resources.tasks.drain(0)


async def test_callbacks_that_hang_are_bounded_and_the_loss_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "MAX_CALLBACKS", 4)
    ledger, called = asyncio.Event(), 0

    async def wait(_exchange: Exchange) -> None:
        nonlocal called
        called += 1
        await ledger.wait()

    provider = Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")
    messages = MessagesApp(auth=Anonymous(), providers=[provider], on_settled=wait)
    for _ in range(7):
        await post(messages, b"{")
    await asyncio.sleep(0)
    assert called == 4
    ledger.set()
    await asyncio.sleep(0.01)
    await post(messages, b"{")
    await asyncio.sleep(0)
    assert called == 5
    assert [record.getMessage() for record in caplog.records] == [
        "4 callbacks are running; further ones are dropped until some have ended",
        "3 callbacks were dropped",
    ]


class Hosts(AuthenticationBackend):
    """A backend of the host's, with any identity."""

    def __init__(self, identity: Any) -> None:
        self.identity = identity

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        user = SimpleUser("ann")
        user.__class__ = type("User", (SimpleUser,), {"identity": self.identity})
        return AuthCredentials(), user


@pytest.mark.parametrize("identity", ["ann\udc80", 1.5, 7, None, "", b"ann", {}], ids=ascii)
async def test_no_identity_of_the_hosts_leaves_a_request_in_flight(identity: Any) -> None:
    provider = Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")
    messages = MessagesApp(auth=Hosts(identity), providers=[provider], access_log=True)
    logging.getLogger("bud_asgi.access").setLevel(logging.INFO)
    sent = await post(messages, json.dumps(BODY).encode())
    assert sent.status in {401, 500}
    assert [one.in_flight for one, _ in messages._loops._by_loop.values()] == [{}]


class Odd:
    """A route of the host's router, with a name that no text can hold."""

    model = "m\udc80"


async def test_a_name_that_cannot_be_encoded_is_escaped_in_the_log_and_the_request_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("bud_asgi.access").setLevel(logging.INFO)
    provider = Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")
    messages = MessagesApp(auth=Anonymous(), providers=[provider], access_log=True)
    exchange = Exchange.of(scope := http_scope([VERSION]))
    exchange.route = Odd()  # type: ignore[assignment]
    sent = Sent()
    await messages(scope, Receiving(*chunks(b"{")), sent)
    assert sent.status == 400
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{exchange.request_id}: messages.create 400 refused in ")
    assert access_records(caplog)[0]["model"] == r"m\udc80"
    assert [one.in_flight for one, _ in messages._loops._by_loop.values()] == [{}]


@pytest.mark.parametrize("name", ["ann\ud800", "\udfff"])
def test_a_principal_has_an_id_that_can_be_written(name: str) -> None:
    with pytest.raises(OptionError, match=r"^id: must not contain half of a surrogate pair") as raised:
        Principal(id=name)
    assert name not in str(raised.value)
