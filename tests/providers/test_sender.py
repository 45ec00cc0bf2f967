"""The one sender: the credential last, once more after a refusal, failures translated."""

from __future__ import annotations

import pytest
from support.bodies import body, decode

from bud_asgi.attempt import Attempt, Target
from bud_asgi.http import HttpError, HttpReply, HttpRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers import (
    Anthropic,
    ProviderRequest,
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    send,
)

HEADERS = {b"anthropic-version": b"2023-06-01"}


SAID = b'{"type":"error","error":{"type":"x","message":"m"},"request_id":"r"}'


class Reply:
    """A whole reply; a status other than 200 comes with an error in the envelope, unless another body is given."""

    done = True

    def __init__(self, status: int, body: bytes = SAID, *headers: tuple[bytes, bytes]) -> None:
        self.status = status
        self.headers = ((b"request-id", b"req_up"), *headers)
        self.body = body
        self.closed = False

    def take(self) -> bytes:
        body, self.body = self.body, b""
        return body

    async def more(self, within: float = 0.0) -> bytes | None:
        return self.take()

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

    is_operators = True

    def __init__(self, left: int) -> None:
        self.left = left
        self.count = 0

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        self.count += 1
        headers = [*request.headers, (b"authorization", b"Bearer %d" % self.count)]
        return HttpRequest(request.origin, request.method, request.target, headers, request.body)

    async def refresh(self, refused: HttpRequest) -> bool:
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


async def sent(client: Client, made: Anthropic, model: str | None = None) -> tuple[HttpReply, Attempt]:
    attempt = Attempt(Target("anthropic", model))
    reply, _ = await send(client, made, ProviderRequest(decode(body()), HEADERS, model), attempt)
    return reply, attempt


async def test_a_200_is_handed_on_open() -> None:
    client = Client(first := Reply(200))
    reply, attempt = await sent(client, provider(9))
    assert reply is first
    assert not first.closed
    assert [list(request.headers)[-1] for request in client.requests] == [(b"authorization", b"Bearer 1")]
    assert (attempt.status, attempt.upstream_request_id) == (200, "req_up")


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 529])
async def test_an_error_is_handed_on_as_it_came(status: int) -> None:
    client = Client(first := Reply(status, SAID, (b"retry-after", b"3"), (b"server", b"x")))
    with pytest.raises(UpstreamErrorResponse) as refused:
        await sent(client, provider(9))
    assert (refused.value.status, refused.value.body, refused.value.event) == (status, SAID, False)
    assert refused.value.headers == {"retry-after": "3", "upstream-request-id": "req_up"}
    assert (first.closed, len(client.requests)) == (True, 1)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(302), "The upstream answered 302 where a Message was expected."),
        (Reply(600), "The upstream answered 600 where a Message was expected."),
        (Reply(999), "The upstream answered 999 where a Message was expected."),
        (Reply(201), "The upstream answered 201 where a Message was expected."),
        (Reply(500, SAID, (b"content-encoding", b"zstd")), "The upstream compressed its answer"),
        (Reply(500, SAID, (b"content-encoding", b"gzip")), "The upstream's answer was malformed."),
        (Reply(200, b"", (b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")), "The upstream compressed"),
        (Reply(200, b"", (b"content-encoding", b"br")), "The upstream compressed its answer"),
        (Reply(403), "upstream authentication failed"),
    ],
)
async def test_an_invalid_reply_is_a_failure_and_closed(reply: Reply, words: str) -> None:
    with pytest.raises(UpstreamUnavailable, match=f"^{words}"):
        await sent(Client(reply), provider(0))
    assert reply.closed


async def test_after_a_401_a_fresh_credential_is_tried_once() -> None:
    client = Client(first := Reply(401), second := Reply(200))
    reply, _ = await sent(client, provider(9), "other")
    assert reply is second
    assert (first.closed, second.closed) == (True, False)
    assert [list(request.headers)[-1][1] for request in client.requests] == [b"Bearer 1", b"Bearer 2"]
    assert [wire(request) for request in client.requests] == [body(model=b'"other"')] * 2


async def test_a_401_is_about_the_credential_whatever_its_text() -> None:
    client = Client(Reply(401, b"<html>"), second := Reply(200))
    assert (await sent(client, provider(9)))[0] is second
    with pytest.raises(TranslatedUpstreamError, match=r"^upstream authentication failed$") as refused:
        await sent(Client(Reply(401, b"<html>")), provider(0))
    assert (refused.value.status, refused.value.credential, refused.value.upstream_message) == (502, True, "401 <html>")
    passing = Anthropic(auth="client")
    with pytest.raises(TranslatedUpstreamError, match=r"^The upstream answered 401 without an error object\.$") as kept:
        await sent(Client(Reply(401, b"<html>")), passing)
    assert (kept.value.status, kept.value.type, kept.value.credential) == (401, "authentication_error", False)


@pytest.mark.parametrize(("left", "asked"), [(0, 1), (9, 2)])
async def test_a_401_after_a_refresh_is_a_502(left: int, asked: int) -> None:
    client = Client(first := Reply(401), second := Reply(401))
    with pytest.raises(UpstreamUnavailable, match=r"^upstream authentication failed$"):
        await sent(client, provider(left))
    assert (first.closed, second.closed, len(client.requests)) == (True, asked == 2, asked)


@pytest.mark.parametrize("before", [[], [Reply(401)]])
async def test_a_failure_of_the_engine_is_translated_and_kept_as_the_cause(before: list[Reply]) -> None:
    error = HttpError("reset", "broken", sent=True)
    with pytest.raises(UpstreamUnavailable, match=r"^The upstream closed the connection") as failed:
        await sent(Client(*before, error), provider(9))
    assert failed.value.__cause__ is error
    assert all(reply.closed for reply in before)


class Talkative(Anthropic):
    """A provider whose upstream tells our credential in an error of its own form."""

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        words = body.decode()
        return TranslatedUpstreamError(
            words.partition("|")[0], status=status, type_="api_error", upstream_message=words
        )


@pytest.mark.parametrize(
    ("said", "words"),
    [(b"quota|key sk-of-the-operators", "quota"), (b"bad sk-of-the-operators", "upstream authentication failed")],
)
async def test_a_translated_error_never_shows_our_credential(
    said: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises((TranslatedUpstreamError, UpstreamUnavailable), match=f"^{words}$") as refused:
        await sent(Client(Reply(429, said)), Talkative(api_key="sk-of-the-operators"))
    told = refused.value.upstream_message if isinstance(refused.value, TranslatedUpstreamError) else ""
    assert refused.value.__cause__ is None
    assert "sk-of-the-operators" not in told + caplog.text
