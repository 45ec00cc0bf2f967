"""The record of one request: data only.

An `Exchange` is made when a request arrives, by whichever part comes first, and travels in the ASGI scope. Middlewares
read and fill it; that is how they can be reordered, replaced, left out, or moved into another app.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import msgspec
from starlette.authentication import BaseUser
from starlette.types import Message, Receive, Scope

from bud_asgi.attempt import Attempt, Target
from bud_asgi.budget import Upload
from bud_asgi.field_policy import Found
from bud_asgi.limit import Limit, check_own_limits
from bud_asgi.options import check_name, check_texts, check_type
from bud_asgi.protocol.account_state import AccountState
from bud_asgi.protocol.account_state import account_state as find_account_state
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.protocol.errors import Outcome
from bud_asgi.protocol.headers import HeaderNames, Headers, check_request_headers, read_headers
from bud_asgi.protocol.operations import Operation
from bud_asgi.protocol.patterns import base_name, matches_any
from bud_asgi.protocol.request import MessagesRequest, NamedModel, decode_request
from bud_asgi.protocol.usage import Usage
from bud_asgi.reading import read_body, with_named_models
from bud_asgi.request_id import new_request_id
from bud_asgi.tasks import BackgroundTasks

SCOPE_KEY = "bud_asgi.exchange"
"""The key under which the record travels in an ASGI scope."""

STAGES_KEY = "bud_asgi.stages"
"""The key of a function that puts an ASGI app around the gateway, for one request, in place of a stack of its own."""

MODELS_EXPECTED = 'a list of model names or patterns with *, such as ["claude-haiku-*"]'


class Principal(msgspec.Struct, BaseUser, frozen=True, kw_only=True):
    """An authenticated caller. It is also a Starlette user: `scope["user"]` and `request.user` can hold one.

    Limits and accounts use `id`. `models` are the names, or patterns with `*`, of the models that it may use. `limits`
    are its own, in place of the general ones per principal of the same kind and window. Raises `OptionError`.
    """

    id: str
    name: str = ""
    team: str | None = None
    models: tuple[str, ...] = ("*",)
    metadata: Mapping[str, str] = {}
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        """Check the options; lists become tuples."""
        check_name("id", self.id)
        if self.name != "":
            check_name("name", self.name)
        if self.team is not None:
            check_name("team", self.team)
        check_type("metadata", self.metadata, Mapping, "a mapping of names to strings")
        msgspec.structs.force_setattr(self, "models", check_texts("models", self.models, MODELS_EXPECTED))
        if self.limits != ():
            msgspec.structs.force_setattr(self, "limits", check_own_limits(self.limits))

    def __repr__(self) -> str:
        """Leave out the metadata, which may hold anything of the host's."""
        return f"Principal(id={self.id!r}, name={self.name!r}, team={self.team!r}, models={self.models!r})"

    def may_use(self, model: str) -> bool:
        """Whether this principal may use the model of that name, with or without a context window (`[1m]`)."""
        if model[-1:] == "]":
            return matches_any(self.models, base_name(model)) or model in self.models
        return matches_any(self.models, model)

    @property
    def may_use_all(self) -> bool:
        """Whether this principal may use every model."""
        return "*" in self.models

    @property
    def is_authenticated(self) -> bool:
        """Always true: unauthenticated requests have no `Principal`."""
        return True

    @property
    def display_name(self) -> str:
        """The name to display: `name`, or else the id."""
        return self.name or self.id

    @property
    def identity(self) -> str:
        """The id, under Starlette's name for it."""
        return self.id


class ResolvedRoute(Protocol):
    """What a model name resolves to, for one principal.

    It may have attributes with the options of `Route` for attempts: `hedge`, `failover_on_unknown`,
    `retry_without_thinking`.
    """

    @property
    def model(self) -> str:
        """The name that permissions, limits and accounts use."""
        ...

    def choose(self, exchange: Exchange) -> Sequence[Target]:
        """The targets to try, in order. Called when the request is about to be sent.

        Also called on the routes of the further models that the body names, to find which providers serve them.
        """
        ...


class Offer(msgspec.Struct, frozen=True):
    """A model name, or a pattern with `*`, that can be resolved, and the targets that serve it, in order."""

    model: str
    targets: tuple[Target, ...]


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """What a request holds of its limits until it is settled.

    `id` is the store's own, and so may be further fields. A store with leases needs a different one for each.
    """

    id: str


class Exchange(msgspec.Struct, eq=False):
    """One request, from its arrival to its settlement.

    Filled by the stages: `operation` (by path and method), `principal`, `route`, `reservation`, `attempts`, `usage`,
    `status`, `outcome`. The last of the `attempts` is the one that was delivered, if there is one. `headers` are the
    client's, by lower-case name; `header_names` is what their names show, `head_size` their length in bytes, which is
    over `MAX_HEAD` if there are too many lines. `path` is that of the ASGI scope, and so is `client`, the address that
    the server names, with its port. `started`, `committed` (the response began) and `ended` are seconds on the
    monotonic clock. `reply_headers` are added to every response.
    `refused_by` is the limit that had no room, `over_limits` are the observed ones that would have refused.
    `account_fields` are the fields and headers of the request that change what is billed, or to whom, and
    `named_routes` the further models that the body names, with their routes.
    `model_id` is the model that `models.retrieve` names, `offers` are the models to choose from in the Models API.
    `credential_headers` are those that proved the caller to the gateway: they are never sent upstream. `hops` are the
    ids of the gateways that the request has been through. `tasks` runs what must outlive the request; `None` outside a
    gateway. `unsent_event` is the final event of a cancelled stream that could not be sent. `upload` is the state of
    the body as it arrives. `dropped` names what was left out of the request for every target. `other_models`: the app
    has providers whose models are not Anthropic's, so that the bounds of a request are known only with its target.
    `explain` returns the value of the `bud-route` header; `None` without that header. `body_wait` is how long the body
    took to arrive, in seconds. `error_type` is the type of the error that the client got. `writes` is how many pieces
    of a stream were written, `last_write` when the last one was, `longest_gap` the longest time between two, in
    seconds; pings do not count. `trace_id` is that of the span of the request, in hexadecimal; `None` without one.
    `revision` is the number of the app's configuration that serves the request: 1 from the start, more after each
    change while it runs. `read_request` is the decoded request, once it has been read.
    """

    request_id: str
    method: str
    http_version: str
    headers: Headers
    header_names: HeaderNames
    head_size: int
    path: str
    started: float
    client: tuple[str, int] | None = None
    hops: bytes = b""
    operation: Operation | None = None
    model_id: str = ""
    max_body: int = DEFAULT_MAX_BODY
    other_models: bool = False
    upload: Upload = msgspec.field(default_factory=Upload)
    principal: Principal | None = None
    credential_headers: tuple[bytes, ...] = ()
    route: ResolvedRoute | None = None
    offers: Sequence[Offer] | None = None
    reservation: Reservation | None = None
    refused_by: Limit | None = None
    over_limits: tuple[Limit, ...] = ()
    attempts: list[Attempt] = []
    usage: Usage | None = None
    outcome: Outcome | None = None
    status: int | None = None
    reply_headers: list[tuple[bytes, bytes]] = []
    committed: float | None = None
    ended: float | None = None
    tasks: BackgroundTasks | None = None
    unsent_event: bytes = b""
    account_fields: Sequence[Found] = ()
    named_routes: Sequence[tuple[NamedModel, ResolvedRoute]] = ()
    explain: Callable[[Exchange], bytes] | None = None
    dropped: tuple[str, ...] = ()
    body_wait: float = 0.0
    error_type: str | None = None
    writes: int = 0
    last_write: float = 0.0
    longest_gap: float = 0.0
    trace_id: str | None = None
    revision: int = 1
    read_request: MessagesRequest | None = None

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """The record of this request, made here if it does not exist yet."""
        exchange: Exchange | None = scope.get(SCOPE_KEY)
        if exchange is None:
            headers, names, size = read_headers(scope["headers"])
            version, path, client = scope.get("http_version", "1.1"), scope["path"], scope.get("client")
            exchange = scope[SCOPE_KEY] = cls(
                new_request_id(), scope["method"], version, headers, names, size, path, time.monotonic(), client
            )
        return exchange

    def __repr__(self) -> str:
        """Leave out headers and body: they contain credentials and user data."""
        return f"Exchange({self.request_id!r}, operation={self.operation!r}, outcome={self.outcome!r})"

    async def request(self, receive: Receive) -> MessagesRequest:
        """The decoded request: read by the first caller, the same for later ones.

        Raises `InvalidRequest`, `RequestTooLarge` (for a declared length before anything is read), `BodiesFull`,
        `HostRefused`, and `ClientGone` when the client disconnects before the body is complete.
        """
        if self.read_request is not None:
            return self.read_request
        check_request_headers(self.headers, self.header_names)
        if self.principal is not None:
            self.upload.principal = self.principal.id
        asked_at = time.monotonic()
        body = await read_body(receive, self.headers, self.upload, self.max_body)
        self.body_wait = time.monotonic() - asked_at
        request = decode_request(body, counting=self.counting, others=self.other_models)
        if not request.is_plain:
            request = await with_named_models(request)
        self.read_request = request
        return request

    @property
    def decoded_request(self) -> MessagesRequest:
        """The request that has been read. Raises `RuntimeError` before that."""
        if self.read_request is None:
            raise RuntimeError("the request has not been read")
        return self.read_request

    def replace_request(self, request: MessagesRequest, dropped: tuple[str, ...]) -> None:
        """Replace the request for all further attempts by one without what is `dropped`."""
        self.read_request, self.dropped = request, self.dropped + dropped

    def release_body(self) -> None:
        """Release the bytes of the request: once its reply is being delivered, no other target is tried."""
        if self.upload.size:
            self.upload.release()
        if self.read_request is not None and self.read_request.body:
            self.read_request = msgspec.structs.replace(self.read_request, body=b"", located={})

    @property
    def added(self) -> float | None:
        """The seconds that the gateway itself has added until the response began; `None` without an attempt.

        Waiting for the client's body and for upstreams does not count. To encode the request for an upstream is part of
        its attempt.
        """
        attempts = self.attempts
        if not attempts:
            return None
        last, committed = attempts[-1], self.committed
        added = attempts[0].started - self.started - self.body_wait
        if len(attempts) > 1:
            for one, following in pairwise(attempts):
                added += max(0.0, following.started - (one.ended or following.started))
        begun = last.first_event or last.ended
        if committed is not None and begun is not None and committed > begun:
            added += committed - begun
        return max(0.0, added)

    @property
    def body_unread(self) -> bool:
        """Whether the client may still be sending its body. Never over HTTP/2: there, an early answer stops it."""
        if self.upload.complete or not self.uses_connection_header:
            return False
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    @property
    def uses_connection_header(self) -> bool:
        """Whether the `connection` header exists in the version of HTTP in use: it does up to 1.1."""
        return self.http_version.startswith("1")

    @property
    def counting(self) -> bool:
        """Whether the request is to count tokens, which is free, instead of creating a message."""
        if self.operation is None:  # one of our middlewares in front of an app that is not ours
            return self.path.endswith("/v1/messages/count_tokens")
        return self.operation == "messages.count_tokens"

    @property
    def account_state(self) -> frozenset[AccountState]:
        """The kinds of state of one account that the request names. Searches the body; empty once it is released."""
        return frozenset() if self.read_request is None else find_account_state(self.read_request)

    def replay_body(self, receive: Receive) -> Receive:
        """A `receive` for the app behind a middleware: the body if it has been read, then the server's messages."""
        if self.read_request is None:
            return receive
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": self.decoded_request.body, "more_body": False}

        return replay
