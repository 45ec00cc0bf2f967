"""The record of one request on its way, and what it carries.

An `Exchange` is made when a request arrives, by whoever comes first, and travels in the ASGI scope. Middlewares read
and fill it, which is how they can be reordered, replaced, left out, or lifted into another app.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from starlette.authentication import BaseUser
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from bud_asgi.options import check_name, check_text, check_texts
from bud_asgi.protocol.account_state import BoundState, bound_state
from bud_asgi.protocol.body import DEFAULT_MAX_BODY, BodyReader
from bud_asgi.protocol.errors import ClientGone, GatewayError, error_body, error_headers, type_of_status
from bud_asgi.protocol.headers import check_request_headers, merge_headers
from bud_asgi.protocol.operations import Operation
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.protocol.request import LARGE_BODY, MessagesRequest, decode_request, weigh_request
from bud_asgi.protocol.usage import Usage
from bud_asgi.tasks import BackgroundTasks

SCOPE_KEY = "bud_asgi.exchange"
"""The key under which the record travels in an ASGI scope."""

Outcome = Literal["answered", "refused", "upstream_failed", "client_gone", "cancelled"]
"""How an exchange ended.

`answered`: the upstream's answer was delivered, an error of its own included. `refused`: turned down by the gateway.
`upstream_failed`: no whole answer came. `client_gone`: nobody was there any more. `cancelled`: by the host's server.
"""

MODELS_EXPECTED = 'a list of model names or patterns with *, such as ["claude-haiku-*"]'

_unowned = BackgroundTasks()


class Principal(msgspec.Struct, BaseUser, frozen=True, kw_only=True):
    """Who is asking. Also a Starlette user, so `scope["user"]` and `request.user` can be one.

    `id` is what limits and accounts go by. `models` are the names or `*` patterns that it may use. Raises
    `OptionError`.
    """

    id: str
    name: str = ""
    team: str | None = None
    models: tuple[str, ...] = ("*",)
    metadata: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        """Check the options; a list of `models` becomes a tuple."""
        check_name("id", self.id)
        msgspec.structs.force_setattr(self, "models", check_texts("models", self.models, MODELS_EXPECTED))

    def may_use(self, model: str) -> bool:
        """Whether this principal may use a model of that name."""
        return matches_any(self.models, model)

    @property
    def is_authenticated(self) -> bool:
        """True: whoever is nobody has no `Principal`."""
        return True

    @property
    def display_name(self) -> str:
        """The name for people: `name`, else the id."""
        return self.name or self.id

    @property
    def identity(self) -> str:
        """The id."""
        return self.id


class ModelNotAllowed(GatewayError):
    """The model exists, but not for this principal."""

    status = 403
    type = "permission_error"
    retryable = False

    def __init__(self, model: str) -> None:
        super().__init__(f"model: {model} is not among the models that this API key may use")


class HostRefused(GatewayError):
    """The host would not let the body in: its own limit on bodies, say. Its status, in our envelope."""

    retryable = False

    def __init__(self, error: HTTPException) -> None:
        super().__init__(error.detail, headers=error.headers)
        self.status = error.status_code
        self.type = type_of_status(error.status_code)


class Target(msgspec.Struct, frozen=True):
    """A provider, by name, and the model that it is asked for; `None` asks for the model as the client wrote it.

    Raises `OptionError`.
    """

    provider: str
    model: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_text("provider", self.provider, "the name of a provider")
        if self.model is not None:
            check_text("model", self.model, "the provider's name of a model")


class ResolvedRoute(Protocol):
    """What a model name resolved to, for one principal."""

    @property
    def model(self) -> str:
        """The name that permissions, limits and accounts go by."""
        ...

    def choose(self, exchange: Exchange) -> Sequence[Target]:
        """The targets to try, in order. Asked when the request is about to be sent."""
        ...


class Offer(msgspec.Struct, frozen=True):
    """A model that is offered, or a pattern of names with `*`, and the targets that serve it, in order."""

    model: str
    targets: tuple[Target, ...]


class Attempt:
    """One try at one target. Times are seconds on the monotonic clock, `None` until reached.

    `dropped` names the fields and betas that the provider lacks and that were left out of the request.
    """

    __slots__ = (
        "dropped",
        "ended",
        "failure",
        "first_event",
        "head",
        "started",
        "status",
        "target",
        "upstream_request_id",
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self.dropped: tuple[str, ...] = ()
        self.started = time.monotonic()
        self.head: float | None = None
        self.first_event: float | None = None
        self.ended: float | None = None
        self.status: int | None = None
        self.upstream_request_id: str | None = None
        self.failure: str | None = None


class Reservation(msgspec.Struct, frozen=True):
    """What a request holds of its limits until it is settled. `id` is the store's own."""

    id: str


class Exchange:
    """One request on its way. Stages fill it; nothing of it leaves the process but what they send.

    `started`, `committed` (the response began) and `ended` are seconds on the monotonic clock. `reply_headers` are
    added to the response, whoever sends it. `model_id` is what `models.retrieve` asks for, `offers` what there is to
    choose from, for the Models API. `tasks` runs what must outlive the request. `end`, while the request is being
    answered, ends that by an error, from another task. `unfinished`, while a stream is, gives the bytes that end it by
    an error at the point where it stands.
    """

    __slots__ = (
        "_path",
        "_request",
        "attempts",
        "committed",
        "end",
        "ended",
        "headers",
        "max_body",
        "method",
        "model_id",
        "offers",
        "operation",
        "outcome",
        "principal",
        "reply_headers",
        "request_id",
        "reservation",
        "route",
        "started",
        "status",
        "tasks",
        "unfinished",
        "usage",
    )

    def __init__(self, scope: Scope) -> None:
        self.request_id = f"req_{os.urandom(12).hex()}"
        self.method: str = scope["method"]
        self.headers = merge_headers(scope["headers"])
        self.operation: Operation | None = None
        self.model_id = ""
        self.max_body = DEFAULT_MAX_BODY
        self.principal: Principal | None = None
        self.route: ResolvedRoute | None = None
        self.offers: Sequence[Offer] | None = None
        self.reservation: Reservation | None = None
        self.attempts: list[Attempt] = []
        self.usage: Usage | None = None
        self.outcome: Outcome | None = None
        self.status: int | None = None
        self.reply_headers: list[tuple[bytes, bytes]] = []
        self.started = time.monotonic()
        self.committed: float | None = None
        self.ended: float | None = None
        self.tasks = _unowned
        self.end: Callable[[GatewayError], None] | None = None
        self.unfinished: Callable[[GatewayError], bytes] | None = None
        self._path: str = scope["path"]
        self._request: MessagesRequest | None = None

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """The record of this request: made here if nobody has made it yet."""
        exchange: Exchange | None = scope.get(SCOPE_KEY)
        if exchange is None:
            exchange = scope[SCOPE_KEY] = cls(scope)
        return exchange

    async def request(self, receive: Receive) -> MessagesRequest:
        """The decoded request: read by whoever asks first, the same for those who ask later.

        Raises `InvalidRequest` and `RequestTooLarge` (for a declared length before anything is read), `ClientGone`
        when the client leaves before the body is whole.
        """
        if self._request is None:
            check_request_headers(self.headers)
            body = await _read_body(receive, BodyReader(self.max_body), self.headers.get(b"content-length"))
            if len(body) > LARGE_BODY:
                await asyncio.sleep(0)  # joining, weighing and decoding each hold the loop for a while
                weigh_request(body)
                await asyncio.sleep(0)
            self._request = decode_request(body, counting=self.counting)
        return self._request

    @property
    def judged(self) -> MessagesRequest:
        """The request that has been read. Raises `RuntimeError` where nobody has asked for it yet."""
        if self._request is None:
            raise RuntimeError("the request has not been read")
        return self._request

    def forget_body(self) -> None:
        """Let go of the request's bytes: once the response has begun it is sent to nobody else."""
        if self._request is not None:
            self._request = msgspec.structs.replace(self._request, body=b"", spans={})

    @property
    def counting(self) -> bool:
        """Whether tokens are to be counted, which is free: no Message is asked for."""
        if self.operation is None:  # a middleware of ours stands before an app that is not
            return self._path.endswith("/v1/messages/count_tokens")
        return self.operation == "messages.count_tokens"

    @property
    def bound(self) -> frozenset[BoundState]:
        """The kinds of state of one account that the request names, for as long as it is held. It searches."""
        return frozenset() if self._request is None else bound_state(self._request)

    def replaying(self, receive: Receive) -> Receive:
        """A `receive` for the app behind: the body again if it has been read, then what the server says."""
        request = self._request
        if request is None:
            return receive
        body: bytes | None = request.body

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message = {"type": "http.request", "body": body, "more_body": False}
            body = None
            return message

        return replay

    async def start_response(self, send: Send, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin the response: the given headers, our `request-id`, and what the stages added."""
        self.status = status
        self.committed = time.monotonic()
        lines = [*headers, *self.reply_headers, (b"request-id", self.request_id.encode())]
        if self.attempts and self.attempts[-1].dropped:
            lines.append((b"bud-dropped", ", ".join(self.attempts[-1].dropped).encode("ascii", "replace")))
        await send({"type": "http.response.start", "status": status, "headers": lines})

    async def refuse(self, error: GatewayError, send: Send) -> None:
        """Answer with an error of the gateway's own: the one place where one becomes a response."""
        body = b"" if isinstance(error, ClientGone) else error_body(error, self.request_id)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self.outcome = self.outcome or ("client_gone" if isinstance(error, ClientGone) else "refused")
        await self.start_response(send, error.status, headers + error_headers(error))
        await send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})


async def _read_body(receive: Receive, reader: BodyReader, content_length: bytes | None) -> bytes:
    reader.declare(content_length)
    more = True
    while more:
        try:
            message = await receive()
        except HTTPException as error:
            raise HostRefused(error) from error
        if message["type"] != "http.request":
            raise ClientGone("the client left before its request was whole")
        await _feed(reader, message.get("body", b""))
        more = message.get("more_body", False)
    if reader.size > LARGE_BODY:
        await asyncio.sleep(0)
    return reader.finish()


async def _feed(reader: BodyReader, chunk: bytes) -> None:
    """Servers hand on some 64 KB at a time; a client in the same process may bring all in one, which holds the loop."""
    if len(chunk) <= LARGE_BODY:
        reader.feed(chunk)
        return
    for start in range(0, len(chunk), LARGE_BODY):
        reader.feed(chunk[start : start + LARGE_BODY])
        await asyncio.sleep(0)
