"""The one sender: the credential last, once more after a refusal, failures translated."""

from __future__ import annotations

import pytest
from protocol.bodies import body, decode

from bud_asgi.http import HttpError, HttpReply, HttpRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers import Anthropic, UpstreamFailed, send

HEADERS = {b"anthropic-version": b"2023-06-01"}


class Reply:
    """A reply of which the status is asked, and whether it is closed."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    done = True

    def __init__(self, status: int) -> None:
        self.status = status
        self.closed = False

    def take(self) -> bytes:
        return b""

    async def more(self, within: float = 0.0) -> bytes | None:
        return b""

    def close(self) -> None:
        self.closed = True


class Client:
    """An engine that answers what it was given."""

    def __init__(self, *answers: Reply | HttpError) -> None:
        self.answers = list(answers)
        self.requests: list[HttpRequest] = []

    async def send(self, request: HttpRequest) -> HttpReply:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, HttpError):
            raise answer
        return answer

    async def aclose(self) -> None:
        return None


class Fresh:
    """A credential that can be had anew."""

    ours = True

    def __init__(self, left: int) -> None:
        self.left = left
        self.count = 0

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        self.count += 1
        headers = [*request.headers, (b"authorization", b"Bearer %d" % self.count)]
        return HttpRequest(request.origin, request.method, request.target, headers, request.body)

    async def refresh(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def redact(self, text: str) -> str:
        return text


def wire(request: HttpRequest) -> bytes:
    return request.body if isinstance(request.body, bytes) else b"".join(request.body)


def provider(left: int) -> Anthropic:
    made = Anthropic(api_key="k")
    made.credential = Fresh(left)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500, 529])
async def test_a_reply_is_handed_on_whatever_its_status(status: int) -> None:
    client, reply = Client(first := Reply(status)), None
    reply = await send(client, provider(9), decode(body()), HEADERS, None)
    assert reply is first
    assert not first.closed
    assert [request.headers[-1] for request in client.requests] == [(b"authorization", b"Bearer 1")]


async def test_after_a_401_a_fresh_credential_is_tried_once() -> None:
    client = Client(first := Reply(401), second := Reply(401))
    assert await send(client, provider(9), decode(body()), HEADERS, "other") is second
    assert (first.closed, second.closed) == (True, False)
    assert [request.headers[-1][1] for request in client.requests] == [b"Bearer 1", b"Bearer 2"]
    assert [wire(request) for request in client.requests] == [body(model=b'"other"')] * 2


async def test_without_a_fresh_credential_the_401_is_the_reply() -> None:
    client = Client(first := Reply(401))
    assert await send(client, provider(0), decode(body()), HEADERS, None) is first
    assert not first.closed


@pytest.mark.parametrize("before", [[], [Reply(401)]])
async def test_a_failure_of_the_engine_is_translated_and_kept_as_the_cause(before: list[Reply]) -> None:
    error = HttpError("reset", "broken", sent=True)
    with pytest.raises(UpstreamFailed, match=r"^The upstream closed the connection") as failed:
        await send(Client(*before, error), provider(9), decode(body()), HEADERS, None)
    assert failed.value.__cause__ is error
    assert all(reply.closed for reply in before)
