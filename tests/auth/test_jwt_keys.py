"""The keys of an issuer: fetched once for all, rotated, kept through an outage; and what is remembered of tokens."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, cast

import pytest
from joserfc.jwk import Key
from support.asgi import Behind, call, http_scope
from support.issuer import KEY_SET, LocalIssuer, private_key
from support.virtual_time import SetClock
from support.waiting import until, until_true

from bud_asgi.auth import AuthMiddleware, Issuer, JwksTiming, Jwt, Pending
from bud_asgi.auth.jwt.documents import MAX_DOCUMENT
from bud_asgi.options import OptionError
from bud_asgi.testing import (
    Answer,
    StandIn,
    TlsKind,
    empty,
    endless_headers,
    garbage_chunks,
    gzip_unasked,
    hang,
    html,
    json_body,
    raw,
    redirect,
    reset_before_head,
)

first, second, third = (partial(private_key, kid) for kid in ("first", "second", "third"))


class Clocks:
    """The two clocks of `JwksTiming`, set together."""

    def __init__(self) -> None:
        self.wall, self.monotonic = SetClock(time.time()), SetClock()
        self.timing = JwksTiming(clock=self.wall, monotonic=self.monotonic, timeout=2.0)

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        self.wall.now += seconds
        self.monotonic.now += seconds


async def status_of(backend: Jwt, token: str) -> int:
    """The status that a request with this token gets."""
    scope = http_scope([(b"authorization", b"Bearer " + token.encode())])
    return (await call(AuthMiddleware(Behind(), backend=backend), scope)).status


def lasting(issuer: LocalIssuer, key: Key, **claims: Any) -> str:
    """A token that outlasts the keys."""
    return issuer.token(issuer.claims(exp=int(time.time()) + 10**6, **claims), key=key)


async def test_a_hundred_first_tokens_cause_one_fetch(issuer: LocalIssuer) -> None:
    backend = issuer.backend()
    tokens = [issuer.token(issuer.claims(sub=f"user-{number}")) for number in range(100)]
    assert set(await asyncio.gather(*(status_of(backend, token) for token in tokens))) == {200}
    assert [request.path for request in issuer.stand_in.requests] == [
        b"/.well-known/openid-configuration",
        KEY_SET.encode(),
    ]


async def test_a_new_key_is_fetched_when_the_first_token_comes_that_needs_it(issuer: LocalIssuer) -> None:
    backend = issuer.backend()
    assert await status_of(backend, issuer.token()) == 200
    issuer.keys = [first(), second()]
    tokens = [issuer.token(issuer.claims(sub=f"user-{number}"), key=second()) for number in range(20)]
    assert set(await asyncio.gather(*(status_of(backend, token) for token in tokens))) == {200}
    assert issuer.fetches() == 2


async def test_unknown_keys_cause_one_fetch_in_thirty_seconds(issuer: LocalIssuer) -> None:
    clocks = Clocks()
    backend = issuer.backend(timing=clocks.timing)
    assert await status_of(backend, issuer.token()) == 200
    for number in range(50):
        forged = issuer.token(key=third(), kid=f"made-up-{number}")
        assert await status_of(backend, forged) == 401
    assert issuer.fetches() == 2
    issuer.keys = [first(), second()]
    assert await status_of(backend, lasting(issuer, second())) == 401  # what the flood costs: thirty seconds at most
    clocks.advance(30)
    assert await status_of(backend, lasting(issuer, second())) == 200
    assert issuer.fetches() == 3


async def test_a_token_is_refused_once_its_key_has_been_withdrawn(issuer: LocalIssuer) -> None:
    clocks = Clocks()
    backend = issuer.backend(timing=clocks.timing)
    token = lasting(issuer, first())
    assert [await status_of(backend, token), await status_of(backend, token)] == [200, 200]
    issuer.keys = [second()]
    clocks.advance(601)
    assert await status_of(backend, token) == 200  # the refresh runs in the background

    async def is_refused() -> bool:
        return await status_of(backend, token) == 401

    await until_true(is_refused)


async def test_the_keys_are_kept_for_a_day_without_the_issuer(
    issuer: LocalIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = Clocks()
    backend = issuer.backend(timing=clocks.timing)
    assert await status_of(backend, lasting(issuer, first())) == 200
    await issuer.stand_in.refuse_connections(drop_open=True)
    clocks.advance(86_000)
    assert await status_of(backend, lasting(issuer, first(), sub="bob")) == 200
    await until(lambda: "could not refresh the keys" in caplog.text)
    assert "using the current ones for another" in caplog.text
    clocks.advance(1000)
    assert await status_of(backend, lasting(issuer, first())) == 503  # the one that was remembered too
    await issuer.stand_in.accept_connections()
    clocks.advance(2)
    assert await status_of(backend, lasting(issuer, first())) == 200


async def test_without_any_keys_the_answer_is_503_and_says_when_to_come_again(issuer: LocalIssuer) -> None:
    await issuer.stand_in.refuse_connections(drop_open=True)
    scope = http_scope([(b"authorization", b"Bearer " + issuer.token().encode())])
    sent = await call(AuthMiddleware(Behind(), backend=issuer.backend()), scope)
    assert (sent.status, sent.headers[b"retry-after"]) == (503, b"5")
    assert sent.error == {"type": "api_error", "message": "The keys of the token's issuer are not available"}


FAULTS: dict[str, Answer] = {
    "a redirect": redirect("http://127.0.0.1:1/keys"),
    "a page": html(),
    "status 500": html(500),
    "nothing": empty(),
    "a list": json_body([]),
    "no keys": json_body({}),
    "keys that are no list": json_body({"keys": {}}),
    "an empty list of keys": json_body({"keys": []}),
    "JSON nested deeply": raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"[" * 200_000,
    ),
    "a document that is too long": json_body({"keys": [], "more": "x" * MAX_DOCUMENT}),
    "headers without end": endless_headers(),
    "chunks that are none": garbage_chunks(),
    "a reset": reset_before_head(),
    "no answer": hang(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_key_set_that_cannot_be_read_is_not_used(
    issuer: LocalIssuer, fault: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Jwt(issuer.issuer(jwks_url=f"{issuer.url}/keys"), timing=JwksTiming(timeout=0.5))
    issuer.stand_in.enqueue(fault)
    assert await status_of(backend, issuer.token()) == 503
    assert "could not refresh the keys of http://127.0.0.1" in caplog.text
    assert len(issuer.stand_in.requests) == 1


async def test_a_key_set_that_is_compressed_is_read(issuer: LocalIssuer) -> None:
    published = json_body({"keys": [first().as_dict(private=False)]})
    issuer.stand_in.enqueue(gzip_unasked(published))
    assert await status_of(issuer.backend(jwks_url=f"{issuer.url}/keys?version=2"), issuer.token()) == 200
    assert issuer.stand_in.requests[0].target == b"/keys?version=2"


FOREIGN: dict[str, dict[str, Any]] = {
    "another issuer": {"issuer": "https://evil.example"},
    "no issuer": {"issuer": None},
    "no keys": {"jwks_uri": None},
    "keys over plain http": {"jwks_uri": "http://keys.example/keys"},
    "keys in a file": {"jwks_uri": "file:///etc/passwd"},
    "keys with a password": {"jwks_uri": "https://user:secret@keys.example/keys"},
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_discovery_document_that_is_wrong_is_not_used(
    issuer: LocalIssuer, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    issuer.discovery.update(change)
    assert await status_of(issuer.backend(), issuer.token()) == 503
    assert issuer.fetches() == 0
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("tls", "status"), [("good", 200), ("wrong-name", 503), ("expired", 503), ("unknown-ca", 503)])
async def test_the_certificate_of_the_issuer_is_verified(tls: TlsKind, status: int) -> None:
    async with StandIn(strict=False, tls=tls) as stand_in:
        issuer = LocalIssuer(stand_in)
        assert issuer.url.startswith("https://")
        backend = Jwt(issuer.issuer(), tls=stand_in.ca)
        assert await status_of(backend, issuer.token()) == status


async def test_a_caller_that_leaves_does_not_end_the_fetch_of_the_others(issuer: LocalIssuer) -> None:
    backend = issuer.backend()
    leaving = asyncio.create_task(status_of(backend, issuer.token()))
    staying = asyncio.create_task(status_of(backend, issuer.token()))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == 200
    assert issuer.fetches() == 1


def test_one_backend_serves_several_event_loops() -> None:
    with StandIn(strict=False).in_thread() as stand_in:
        issuer = LocalIssuer(cast("StandIn", stand_in))  # it has what is used here
        backend = issuer.backend()
        for _ in range(3):
            assert asyncio.run(status_of(backend, issuer.token())) == 200
        assert issuer.fetches() == 1


async def test_a_token_is_remembered_until_it_expires(issuer: LocalIssuer) -> None:
    clocks = Clocks()
    backend = issuer.backend(timing=clocks.timing, leeway=60.0)
    token = issuer.token(issuer.claims(exp=int(time.time()) + 100))
    assert backend.check(token.encode()) is not None
    assert await status_of(backend, token) == 200
    assert isinstance(backend.check(token.encode()), tuple)
    clocks.advance(158)
    assert isinstance(backend.check(token.encode()), tuple)
    clocks.advance(3)
    assert isinstance(backend.check(token.encode()), Pending)
    assert await status_of(backend, token) == 401


async def test_what_is_remembered_is_bounded(issuer: LocalIssuer) -> None:
    backend = issuer.backend()
    verified = backend._verified
    verified._max_entries, verified._max_size = 10, 12_000
    for number in range(30):
        assert await status_of(backend, issuer.token(issuer.claims(sub=f"user-{number}"))) == 200
        assert len(verified) <= 10
        assert verified.size <= 12_000
    assert await status_of(backend, issuer.token(issuer.claims(pad="x" * 10_000))) == 200
    assert verified.size <= 12_000


WRONG: dict[str, dict[str, Any]] = {
    "url: an http URL elsewhere": {"url": "http://issuer.example"},
    "url: a password": {"url": "https://a:secret@issuer.example"},
    "url: a fragment": {"url": "https://issuer.example/#a"},
    "url: no text": {"url": 1},
    "jwks_url: another scheme": {"jwks_url": "ftp://issuer.example"},
    "audience: nothing": {"audience": ()},
    "audience: an empty text": {"audience": ""},
    "algorithms: none": {"algorithms": ["none"]},
    "algorithms: HMAC": {"algorithms": ["HS256"]},
    "algorithms: nothing": {"algorithms": []},
    "types: nothing": {"types": []},
    "leeway: an hour": {"leeway": 3600},
    "id: nothing": {"id": None},
    "roles: no text": {"roles": [1], "grants": []},
    "grants: without roles": {"grants": [{}]},
    "required: a table": {"required": {"a": {}}},
    "principal: no function": {"principal": "sub"},
    "team: beside principal": {"team": "org", "principal": lambda claims: None},  # pyright: ignore[reportUnknownLambdaType]
}


def make_issuer(url: Any = "https://issuer.example", audience: Any = "a", **options: Any) -> Issuer:
    return Issuer(url=url, audience=audience, **options)


@pytest.mark.parametrize(("case", "options"), WRONG.items(), ids=WRONG.keys())
def test_options_that_are_wrong_are_named(case: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=rf"^{case.partition(':')[0]}") as refused:
        make_issuer(**options)
    assert "secret" not in str(refused.value)


def test_two_issuers_have_different_urls_and_prefixes() -> None:
    one = Issuer(url="https://a.example", audience="a")
    with pytest.raises(OptionError, match=r"^issuers\[1\]\.url: duplicate url, already used by issuers\[0\]$"):
        Jwt([one, one])
    with pytest.raises(OptionError, match=r"^issuers\[1\]\.prefix: duplicate prefix"):
        Jwt([one, Issuer(url="https://b.example", audience="a", prefix="a.example:")])
    with pytest.raises(OptionError, match=r"^issuers: an empty list"):
        Jwt([])
