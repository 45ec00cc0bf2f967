"""One try at one target of a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Literal, Protocol

import msgspec

from bud_asgi.options import check_integer, check_text, check_type
from bud_asgi.protocol.answer import Answer, answer_of_message, answer_of_stream
from bud_asgi.protocol.usage import Usage
from bud_asgi.timeouts import Timeouts

AttemptEnd = Literal[
    "answered",
    "unsupported",
    "not_sent",
    "refused",
    "denied",
    "overloaded",
    "unknown",
    "broken",
    "client_gone",
    "cancelled",
]
"""How an attempt ended.

`answered`: its reply was delivered. `unsupported`: the provider cannot express the request, nothing was sent.
`not_sent`: no byte of the request can have reached the upstream. `refused`: the upstream rejected the request itself.
`denied`: it rejected the gateway's credential, or lacks the model. `overloaded`: it has no capacity, or failed: 408,
424, 429 or 5xx, as a response or as an `error` event before the content of a stream. `unknown`: it was sent, and no
usable reply arrived; it may have been billed. `broken`: the reply broke off, or ended with an error, after a part of it
had been delivered.
`client_gone`, `cancelled`: the exchange ended first, or another attempt began to answer first.
"""

MAX_WEIGHT = 1000

_BILLED: frozenset[AttemptEnd | None] = frozenset({"answered", "unknown", "broken", "client_gone", "cancelled"})


class Target(msgspec.Struct, frozen=True):
    """A provider, by name, and its name for the model; `None` sends the model as the client wrote it.

    `weight`, 1 to 1000, is its share beside the other targets of its group; `None` counts as 1. `concurrency` is how
    many requests this process may have in flight there. `timeouts` replace those of the provider. Raises `OptionError`.
    """

    provider: str
    model: str | None = None
    weight: int | None = None
    concurrency: int | None = None
    timeouts: Timeouts | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_text("provider", self.provider, "the name of a provider")
        if self.model is not None:
            check_text("model", self.model, "the provider's name of a model")
        if self.weight is not None:
            check_integer("weight", self.weight, f"a whole number, 1 to {MAX_WEIGHT}", maximum=MAX_WEIGHT)
        if self.concurrency is not None:
            check_integer("concurrency", self.concurrency, "a number of requests, at least 1")
        if self.timeouts is not None:
            check_type("timeouts", self.timeouts, Timeouts, "a Timeouts")

    @property
    def name(self) -> str:
        """Its name in logs, metrics, traces and on the status page: `provider/model`, or `provider` without a model."""
        return self.provider if self.model is None else f"{self.provider}/{self.model}"


class Server(Protocol):
    """The address of an upstream."""

    @property
    def host(self) -> str:
        """The name or the address of the host."""
        ...

    @property
    def port(self) -> int:
        """The port."""
        ...


class Attempt(msgspec.Struct, eq=False):
    """One try at one target. Times are seconds on the monotonic clock, `None` until reached.

    `dropped` are the fields and betas that were left out because the provider lacks them. `end` is how it ended,
    `failure` the reason in words for the log; it may name hosts and accounts. `sent` is true once its request may have
    reached the upstream. `guardrail` is the verdict of a Bedrock guardrail in the reply, such as `NONE` or
    `INTERVENED`; `None` if the reply has none. `metered` is the usage that the upstream reported beside the reply, as
    AWS's metrics do. `usage` is what the attempt has cost, or may have. The caller pays for one attempt: once the
    request has ended, its usage is that of the exchange, and what is left here is the operator's. A JSON reply that has
    not arrived with its head has to be whole by the `deadline`.

    `service` is the service called, by its name in OpenTelemetry's conventions (`anthropic`, `aws.bedrock`), and
    `server` its address. `error_type` is the type of the error that the upstream answered with. `reply` is what
    `answer` is read from, and is there in `attempt_ended` only: a JSON body, or the data of the first and of the last
    of a stream's events with facts about the message.

    Two fields are for observers, to be set in `attempt_started`. `trace_context` are the headers that replace the
    client's `traceparent` and `tracestate`, for providers that send these on. `capture` gets the bytes of the reply as
    they arrive: JSON, or events in the Anthropic format.
    """

    target: Target
    dropped: tuple[str, ...] = ()
    started: float = msgspec.field(default_factory=time.monotonic)
    sent: bool = False
    head: float | None = None
    first_event: float | None = None
    ended: float | None = None
    status: int | None = None
    upstream_request_id: str | None = None
    end: AttemptEnd | None = None
    failure: str | None = None
    guardrail: str | None = None
    metered: Usage | None = None
    usage: Usage | None = None
    deadline: float = inf
    service: str = ""
    server: Server | None = None
    error_type: str | None = None
    reply: tuple[bytes, ...] = ()
    trace_context: Sequence[tuple[bytes, bytes]] = ()
    capture: Callable[[bytes], None] | None = None

    def __repr__(self) -> str:
        """Leave out the reply, which is content, and the reason of a failure, which may name hosts and accounts."""
        return f"Attempt({self.target!r}, end={self.end!r}, status={self.status!r})"

    @property
    def answer(self) -> Answer:
        """What the reply reports of itself. It is known in `attempt_ended`; later, and without a reply, it is empty."""
        match self.reply:
            case (body,):
                return answer_of_message(body)
            case (start, delta):
                return answer_of_stream(start, delta)
            case _:
                return Answer()

    @property
    def intervened(self) -> bool:
        """Whether a guardrail blocked or changed the reply."""
        return self.guardrail is not None and self.guardrail != "NONE"

    def note_guardrail(self, action: str | None) -> None:
        """Note the verdict of a guardrail, if there is one: an intervention is not taken back by a later event."""
        if action is not None and not self.intervened:
            self.guardrail = action

    @property
    def possibly_billed(self) -> bool:
        """Whether the upstream may charge for it, also where no reply came: it was sent, and not refused."""
        refused = self.status is not None and (300 <= self.status < 500 or self.status in {503, 529})
        return self.sent and not refused and self.end in _BILLED
