"""Attempts: each end is classified once, and the table decides what follows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from support.asgi import VERSION, Receiving, Sent, chunks, http_scope
from support.calls import BODY

from bud_asgi import Anonymous, Anthropic, Exchange, MessagesApp
from bud_asgi.attempts import TRY_NEXT, classify
from bud_asgi.exchange import AttemptEnd
from bud_asgi.http import HttpError, HttpReply, HttpRequest
from bud_asgi.protocol.errors import GatewayError, InvalidRequest, NotFound
from bud_asgi.providers import TranslatedUpstreamError, UpstreamErrorResponse, UpstreamUnavailable, unavailable

ENDS: dict[str, tuple[GatewayError, bool, AttemptEnd]] = {
    "a refused connection": (unavailable(HttpError("connect", "refused")), False, "not_sent"),
    "a failed handshake": (unavailable(HttpError("tls", "no")), False, "not_sent"),
    "a reset before the first byte": (unavailable(HttpError("reset", "x", sent=False)), False, "not_sent"),
    "a reset after the first byte": (unavailable(HttpError("reset", "x", sent=True)), False, "unknown"),
    "a timeout": (unavailable(HttpError("timeout", "x", sent=True)), False, "unknown"),
    "an unusable reply": (UpstreamUnavailable("The upstream's answer was not JSON."), False, "unknown"),
    "a stream that breaks off": (unavailable(HttpError("reset", "x", sent=True, answered=True)), True, "broken"),
    "an error object": (UpstreamErrorResponse(529, b"{}", []), False, "refused"),
    "an error as the first event": (UpstreamErrorResponse(529, b"{}", [], event=True), False, "overloaded"),
    "a translated error": (
        TranslatedUpstreamError("no", status=400, type_="invalid_request_error", upstream_message="x"),
        False,
        "translated",
    ),
    "a field that the provider lacks": (InvalidRequest("mcp_servers: not supported"), False, "unsupported"),
    "a model that the provider lacks": (NotFound("model: x"), False, "unsupported"),
}


@pytest.mark.parametrize(("error", "has_content", "end"), ENDS.values(), ids=ENDS.keys())
def test_an_end_is_classified(error: GatewayError, has_content: bool, end: AttemptEnd) -> None:
    assert classify(error, has_content=has_content) == end


def test_every_end_has_a_line_in_the_table_and_in_the_docs() -> None:
    assert set(TRY_NEXT) == set(get_args(AttemptEnd))
    page = (Path(__file__).parent.parent / "docs" / "request-path.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", page, re.MULTILINE))
    assert rows == {end: "yes" if following else "no" for end, following in TRY_NEXT.items()}


def test_the_next_target_is_tried_only_where_nothing_was_begun() -> None:
    assert [end for end, following in TRY_NEXT.items() if following] == ["not_sent"]


async def test_an_exception_of_the_hosts_client_leaves_an_attempt_that_may_have_been_billed() -> None:
    class Broken:
        async def send(self, request: HttpRequest) -> HttpReply:
            raise RuntimeError("a fault of the host's transport")

        async def aclose(self) -> None:
            return

    settled: list[Exchange] = []

    async def settle(exchange: Exchange) -> None:
        settled.append(exchange)

    provider = Anthropic(api_key="sk-ant-x", base_url="http://127.0.0.1:1")
    messages = MessagesApp(auth=Anonymous(), providers=[provider], client=Broken, on_settled=settle)
    sent = Sent()
    async with messages.lifespan():
        await messages(http_scope([VERSION]), Receiving(*chunks(json.dumps(BODY).encode())), sent)
    (exchange,) = settled
    assert (sent.status, exchange.attempts[0].end) == (500, "unknown")
    assert exchange.usage is not None
    assert exchange.usage.estimated
