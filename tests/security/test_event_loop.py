"""No request that the limits admit keeps the event loop from the other clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from bud_asgi import Bedrock, Secret, Vertex
from bud_asgi.attempt import Attempt, Target
from bud_asgi.http import HttpError, HttpReply, HttpRequest
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers import Provider, ProviderRequest, send

LONGEST = 0.4
"""Seconds: measured are some 50 ms on an idle machine; the same edits in the event loop take seconds."""

PROVIDERS: list[Provider] = [
    Bedrock(region="us-east-1", bearer_token=Secret("token"), drop_fields=["tools.description"]),
    Vertex(project="p", drop_fields=["messages.content.citations"]),
]


class Refusing:
    """An HTTP client that sends nothing."""

    async def send(self, request: HttpRequest) -> HttpReply:
        raise HttpError("connect", "nothing is sent", sent=False, answered=False)

    async def aclose(self) -> None: ...


def body(more: bytes = b"", messages: bytes = b'{"role":"user","content":"x"}') -> bytes:
    head = b'{"model":"claude-opus-4-8","max_tokens":1,"cache_control":{"type":"ephemeral"}'
    return b'%b,"messages":[%b]%b}' % (head, messages, more)


def many(item: bytes, count: int) -> bytes:
    return b",".join([item] * count)


SCOPED = b'{"type":"text","text":"","cache_control":{"scope":1}}'
BODIES: dict[str, Callable[[], bytes]] = {
    "a custom in each tool": lambda: body(b',"tools":[%b]' % many(b'{"custom":1}', 290_000)),
    "a large custom in each tool": lambda: body(
        b',"tools":[%b]' % many(b'{"custom":{"a":"%b"}}' % (b"x" * 80), 149_000)
    ),
    "strict in each tool": lambda: body(b',"tools":[%b]' % many(b'{"strict":1,"description":""}', 145_000)),
    "a scope in each message": lambda: body(messages=many(b'{"content":[%b]}' % SCOPED, 95_000)),
    "a scope in each block": lambda: body(messages=b'{"content":[%b]}' % many(SCOPED, 95_000)),
    "a scope in each result": lambda: body(messages=b'{"content":[%b]}' % many(b'{"content":[%b]}' % SCOPED, 95_000)),
    "escapes": lambda: body(messages=b'{"content":[{"content":[%b,{"text":"%b"}]}]}' % (SCOPED, b"\\n" * 5_000_000)),
    "numbers": lambda: body(messages=b'{"content":[%b]},[%b]' % (SCOPED, many(b"1", 4_000_000))),
}
"""Made when they are needed: every worker imports this."""


@pytest.fixture(autouse=True)
def credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for Google's token: its credential is replaced by none at all."""

    class NoCredential:
        is_operators = True

        async def apply(self, request: HttpRequest, client: object) -> HttpRequest:
            return request

    for provider in PROVIDERS:
        monkeypatch.setattr(provider, "credential", NoCredential())


@pytest.mark.parametrize("provider", PROVIDERS, ids=["bedrock", "vertex"])
@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES.keys())
async def test_the_edits_of_a_hostile_body_do_not_block_the_event_loop(
    make: Callable[[], bytes], provider: Provider
) -> None:
    call = ProviderRequest(decode_request(make()), {b"anthropic-version": b"2023-06-01"})
    sending = asyncio.ensure_future(send(Refusing(), provider, call, Attempt(Target(provider.name))))
    longest = 0.0
    while not sending.done():
        began = time.thread_time()
        await asyncio.sleep(0.001)
        longest = max(longest, time.thread_time() - began)
    with suppress(GatewayError):
        await sending
    assert longest < LONGEST


async def test_the_edits_of_the_largest_body_in_the_event_loop_are_short() -> None:
    given = body(messages=b'{"content":[%b]}' % many(SCOPED, (1 << 18) // (len(SCOPED) + 1) - 10))
    assert len(given) < 1 << 18
    call = ProviderRequest(decode_request(given), {b"anthropic-version": b"2023-06-01"})
    began = time.process_time()
    encoded = PROVIDERS[0].encode(call)
    assert time.process_time() - began < LONGEST
    sent = json.loads(b"".join(encoded.request.body))  # pyright: ignore[reportArgumentType]
    assert not any("scope" in block["cache_control"] for block in sent["messages"][0]["content"])
