"""A client, a gateway and its upstream, as the contract's checks use them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
from support.calls import HEADERS, MODEL
from support.gateway import Gateway, gateway, provider
from support.gateway import timed as gateway_timed
from support.waiting import wait_until

from bud_asgi import Exchange, Route, Target
from bud_asgi.clock import Timing
from bud_asgi.http import Timeouts
from bud_asgi.providers import Provider
from bud_asgi.testing import Received, ThreadedStandIn
from contract.bending import Bent, proxying

Lines = Sequence[tuple[str, str]]
Providers = Callable[[str], list[Provider]]

PATIENCE, IMPATIENCE = 5.0, 0.3
"""Seconds to wait for what must come at once: enough for a busy machine, and less where a bender may hold it back."""

CREDENTIAL: Lines = [("x-api-key", HEADERS["x-api-key"])]
VERSION: Lines = [("anthropic-version", "2023-06-01")]
TYPE: Lines = [("content-type", "application/json")]

ALIAS, RENAMED = "house-claude", "claude-of-the-house"
"""Names that only the gateway knows: `RENAMED` looks like a name of the service, `ALIAS` does not."""
UPSTREAM_NAME = "claude-opus-5"
ROUTES = [
    Route(ALIAS, to=[Target("anthropic", UPSTREAM_NAME)]),
    Route(RENAMED, to=[Target("anthropic", UPSTREAM_NAME)]),
    Route(MODEL, to=["anthropic"]),
    Route("claude-*", to=["anthropic"]),
]

_FIELDS: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}


def body(**fields: Any) -> bytes:
    """A valid body with these fields, with whitespace that no encoder would produce."""
    return json.dumps({**_FIELDS, **fields}, indent=1, separators=(" ,", ":")).encode()


PLAIN, STREAM = body(), body(stream=True)


class Answer(msgspec.Struct, frozen=True):
    """A response, its body as it was on the wire, without framing."""

    status: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Fails if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise AssertionError(f"no JSON: {self.body[:200]!r}") from error

    def assert_error(self, status: int, kind: str) -> str:
        """Assert that this is an error of the gateway in its envelope. Returns its message."""
        assert self.status == status, f"{self.status} {self.body[:200]!r}"
        assert self.headers.get("content-type") == "application/json"
        told = self.json()
        assert set(told) == {"type", "error", "request_id"}
        assert told["type"] == "error"
        assert told["error"]["type"] == kind
        assert told["request_id"] == self.headers.get("request-id")
        assert told["request_id"].startswith("req_")
        return told["error"]["message"]


class StreamedAnswer:
    """A response that is read as it arrives."""

    def __init__(self, reply: httpx.Response, within: float) -> None:
        self.status = reply.status_code
        self.headers = reply.headers
        self.received = b""
        self._chunks = reply.iter_raw()
        self._within = within

    def until(self, wanted: bytes) -> bytes:
        """Read until `wanted` has arrived; return all received so far. Fails if the reply ends or time runs out."""
        deadline = time.monotonic() + self._within
        while wanted not in self.received:
            chunk = next(self._chunks, None)
            assert chunk is not None, f"{wanted!r} never came: {self.received[-300:]!r}"
            self.received += chunk
            assert wanted in self.received or time.monotonic() < deadline, f"{wanted!r} did not come in time"
        return self.received


class Line:
    """A gateway and its upstream, with or without bending proxies around the gateway. Clients use `url`."""

    def __init__(
        self, web: httpx.Client, upstream: ThreadedStandIn, url: str, here: Gateway, behind: str, bent: Bent | None
    ) -> None:
        self.web, self.upstream, self.url, self.here = web, upstream, url, here
        self._behind, self._bent = behind, bent

    def reset(self) -> Line:
        """Forget queued replies, requests and records, so that the next check can use it."""
        self.upstream._stand_in._queue.clear()
        self.upstream.requests.clear()
        self.here.forget()
        return Line(self.web, self.upstream, self.url, self.here, self._behind, self._bent)

    @contextmanager
    def with_options(self, *, providers: Providers | None = None, **options: Any) -> Generator[Line]:
        """Another gateway with these options, with the same upstream and proxies."""
        with _gateway_between(self.upstream, self._behind, self._bent, providers, options) as line:
            yield line

    @property
    def within(self) -> float:
        """Seconds to wait for what must come at once."""
        return IMPATIENCE if self._bent and self._bent.bends else PATIENCE

    @property
    def received(self) -> list[Received]:
        """The requests for messages that the upstream received during this check."""
        return [request for request in self.upstream.requests if request.method == b"POST"]

    def the_received(self) -> Received:
        """The only request that the upstream received."""
        assert len(self.received) == 1, [request.target for request in self.received]
        return self.received[0]

    def request(
        self,
        content: bytes | None = PLAIN,
        *,
        method: str = "POST",
        path: str = "/v1/messages",
        headers: Lines = (*CREDENTIAL, *VERSION, *TYPE),
        more: Lines = (),
    ) -> Answer:
        """Send one request and read the whole response."""
        with self.stream(content, method=method, path=path, headers=[*headers, *more], within=10.0) as listener:
            for chunk in listener._chunks:
                listener.received += chunk
        return Answer(listener.status, listener.headers, listener.received)

    @contextmanager
    def stream(
        self,
        content: bytes | None = STREAM,
        *,
        method: str = "POST",
        path: str = "/v1/messages",
        headers: Lines = (*CREDENTIAL, *VERSION, *TYPE),
        within: float | None = None,
    ) -> Generator[StreamedAnswer]:
        """Send one request; the client disconnects when the block is left. A transport error fails the check."""
        patience = within or self.within
        try:
            with self.web.stream(
                method, f"{self.url}{path}", headers=list(headers), content=content, timeout=patience
            ) as reply:
                yield StreamedAnswer(reply, patience)
        except httpx.HTTPError as error:
            raise AssertionError(f"no whole answer: {error!r}") from error

    def account_of(self, answer: Answer | StreamedAnswer) -> Exchange:
        """The gateway's record of a request."""
        name = answer.headers.get("request-id")

        def found() -> list[Exchange]:
            return [account for account in self.here.settled if account.request_id == name]

        wait_until(lambda: bool(found()), f"an account of {name}", timeout=self.within)
        return found()[0]


@contextmanager
def _gateway_between(
    upstream: ThreadedStandIn, behind: str, bent: Bent | None, providers: Providers | None, options: dict[str, Any]
) -> Generator[Line]:
    patient = Timeouts(2.0, 8.0, 8.0)
    made = providers(behind) if providers else [provider(behind, timeouts=patient)]
    with gateway("", providers=made, **options) as here, httpx.Client(verify=False, trust_env=False) as web:
        if bent is None:
            yield Line(web, upstream, here.base_url, here, behind, None)
            return
        with proxying(here.base_url, lambda: bent.before) as url:
            yield Line(web, upstream, url, here, behind, bent)


@contextmanager
def line_to(upstream: ThreadedStandIn, bent: Bent | None = None) -> Generator[Line]:
    """A gateway with the usual options; with `bent`, between two proxies."""
    usual: dict[str, Any] = {"routes": ROUTES, "access_log": True}
    if bent is None:
        with _gateway_between(upstream, upstream.base_url, None, None, usual) as line:
            yield line
        return
    with (
        proxying(upstream.base_url, lambda: bent.behind) as behind,
        _gateway_between(upstream, behind, bent, None, usual) as line,
    ):
        yield line


@contextmanager
def timed(line: Line, **timing: float) -> Generator[None]:
    """Change the durations of a running gateway inside the block."""
    with gateway_timed(line.here.messages, Timing(**timing)):
        yield


@contextmanager
def log_noise() -> Generator[list[str]]:
    """The messages that the gateway logs meanwhile."""
    said: list[str] = []

    class Gatherer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, gatherer = logging.getLogger("bud_asgi"), Gatherer()
    level = logger.level
    logger.addHandler(gatherer)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(gatherer)
        logger.setLevel(level)
