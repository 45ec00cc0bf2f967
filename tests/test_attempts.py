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
from bud_asgi.attempt import AttemptEnd
from bud_asgi.failover import TRY_NEXT, classify
from bud_asgi.http import HttpError, HttpReply, HttpRequest
from bud_asgi.protocol.errors import GatewayError, InvalidRequest, NotFound
from bud_asgi.providers import (
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    authentication_failed,
    unavailable,
)


def error(status: int, body: bytes = b"{}", *, event: bool = False, advice: str = "") -> UpstreamErrorResponse:
    headers = [(b"x-should-retry", advice.encode())] if advice else []
    return UpstreamErrorResponse(status, body, headers, event=event)


def translated(status: int, *, credential: bool = False) -> TranslatedUpstreamError:
    return TranslatedUpstreamError("no", status=status, type_="x", upstream_message="x", credential=credential)


CODE = b'{"type":"error","error":{"type":"not_found_error","message":"x","details":{"error_code":"file_expired"}}}'

ENDS: dict[str, tuple[GatewayError, AttemptEnd]] = {
    "a refused connection": (unavailable(HttpError("connect", "refused")), "not_sent"),
    "a failed handshake": (unavailable(HttpError("tls", "no")), "not_sent"),
    "a reset before the first byte": (unavailable(HttpError("reset", "x", sent=False)), "not_sent"),
    "a reset after the first byte": (unavailable(HttpError("reset", "x", sent=True)), "unknown"),
    "a timeout": (unavailable(HttpError("timeout", "x", sent=True)), "unknown"),
    "an unusable reply": (UpstreamUnavailable("The upstream's answer was not JSON."), "unknown"),
    "our credential": (authentication_failed(), "denied"),
    "our credential at a cloud": (translated(502, credential=True), "denied"),
    "no access to the model": (translated(403), "denied"),
    "no such model": (error(404), "denied"),
    "no such file": (error(404, CODE), "refused"),
    "an invalid request": (error(400), "refused"),
    "an invalid request at a cloud": (translated(400), "refused"),
    "a permission of the client's": (error(403), "refused"),
    "too large": (error(413), "refused"),
    "a conflict that the upstream wants repeated": (error(409, advice="true"), "overloaded"),
    "a timeout of the upstream's": (error(408), "overloaded"),
    "a failed dependency": (error(424), "overloaded"),
    "a rate limit": (error(429), "overloaded"),
    "a rate limit that lasts": (error(429, advice="false"), "overloaded"),
    "overloaded": (error(529), "overloaded"),
    "overloaded, as the first event": (error(529, event=True), "overloaded"),
    "an internal error": (error(500), "overloaded"),
    "an internal error that would occur again": (error(500, advice="false"), "refused"),
    "unavailable, at a cloud": (translated(503), "overloaded"),
    "a field that the provider lacks": (InvalidRequest("mcp_servers: not supported"), "unsupported"),
    "a model that the provider lacks": (NotFound("model: x"), "unsupported"),
}


@pytest.mark.parametrize(("failure", "end"), ENDS.values(), ids=ENDS.keys())
def test_an_end_is_classified(failure: GatewayError, end: AttemptEnd) -> None:
    assert classify(failure, committed=False) == end


def test_a_reply_that_breaks_off_after_the_commit_is_broken() -> None:
    assert classify(unavailable(HttpError("reset", "x", sent=True, answered=True)), committed=True) == "broken"


def test_a_credential_of_the_client_s_that_is_rejected_never_moves_on_to_one_of_the_gateway_s() -> None:
    for failure in (error(401), error(403), translated(403), translated(401)):
        assert classify(failure, committed=False, own_credential=False) == "refused"


def test_every_end_has_a_line_in_the_table_and_in_the_docs() -> None:
    assert set(TRY_NEXT) == set(get_args(AttemptEnd))
    page = (Path(__file__).parent.parent / "docs" / "request-path.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", page, re.MULTILINE))
    assert rows == {end: "yes" if following else "no" for end, following in TRY_NEXT.items()}


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
