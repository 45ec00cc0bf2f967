"""The tables of a configuration file: their keys, and the TOML type of each value.

The constructors of the objects check the values, and their defaults apply to keys that are absent. `object` stands for
a value that only the constructor can judge, `Secret` for a reference to a secret. `make reference` writes what is
documented here into docs/configuration.md.
"""

from __future__ import annotations

from typing import Any, TypedDict

from bud_asgi.secret import Secret


class GatewayConfig(TypedDict, total=False):
    """The whole file."""

    providers: dict[str, Any]
    keys: list[Any]
    key_store: object
    key_pepper: Secret
    allow_anonymous: bool
    issuers: list[Any]
    throttle: object
    routes: list[Any]
    limits: list[Any]
    store: object
    fields: dict[str, Any]
    max_body: int
    """The largest request body in bytes; a larger one gets a 413.

    Default: 33554432 (32 MB)
    """
    body_budget: int
    """How much of request bodies the process holds at any time, in bytes; at least `max_body`.

    Default: 268435456 (256 MB), or a quarter of the process's memory limit if that is less
    """
    body_budget_per_principal: int
    """How much of it one caller may use; at least `max_body`.

    Default: half of `body_budget`
    """
    access_log: bool
    """Whether each request is [logged](observability.md#access-log), without its content, by the logger
    `bud_asgi.access`.

    Default: on with `bud-asgi serve`, otherwise off
    """
    opentelemetry: bool
    """Whether requests are [traced and measured by OpenTelemetry](observability.md#traces).

    Default: `false`
    """
    route_header: bool
    """Whether responses have the header `bud-route`, which [explains the route](routing.md#the-bud-route-header).

    Default: `false`
    """


class LimitConfig(TypedDict, total=False):
    """The amount of one kind, for whom, and what happens without room."""

    requests: int
    """The number of requests."""
    input_tokens: int
    """The number of input tokens."""
    output_tokens: int
    """The number of output tokens."""
    tokens: int
    """The number of input and output tokens together."""
    concurrent: int
    """The number of requests that run at the same time; it has no `window`."""
    window: object
    """The time in which the amount refills: a [duration](#durations).

    Default: `"1m"`
    """
    per: str
    """What has a bucket of its own: each `"principal"` (caller), `"team"` or `"model"`, or `"all"` together.

    Default: `"principal"`
    """
    models: list[str]
    """The model names and patterns with `*` that it applies to.

    Default: `["*"]`
    """
    teams: list[str]
    """The teams and patterns that it applies to.

    Default: `["*"]`
    """
    principals: list[str]
    """The names of callers and patterns that it applies to.

    Default: `["*"]`
    """
    mode: str
    """`"enforce"`; or `"observe"`: use is counted and reported, and nothing is refused.

    Default: `"enforce"`
    """
    wait: object
    """How long a request may wait for room before it is refused: a [duration](#durations) of at most 60 seconds.

    Default: 0
    """
    cache_reads: bool
    """Whether input tokens that were read from the prompt cache count too; for `input_tokens` and `tokens`.

    Default: `false`
    """


class StoreConfig(TypedDict, total=False):
    """Where limits are counted for several processes."""

    url: object
    """A URL, or a [reference](#secrets) to one: `redis://`, `rediss://` (TLS), `unix://`,
    `redis+sentinel://host1,host2/service` or `redis+cluster://host1,host2`; `valkey` may replace `redis`. A URL with
    a user or password must be a reference.

    Required.
    """
    timeout: object
    """The longest that a request waits for the store: a [duration](#durations).

    Default: `"50ms"`
    """
    on_failure: str
    """What happens while the store is slow or away: `"open"` admits all requests, `"closed"` refuses them with a 529,
    `"local"` applies the limits in the memory of each process, divided by `replicas`.

    Default: `"open"`
    """
    replicas: int
    """For `on_failure = "local"`, and required there: the number of processes."""
    prefix: str
    """What the keys in the store begin with.

    Default: `"bud_asgi"`
    """


class RouteConfig(TypedDict, total=False):
    """A model name or pattern, its targets, and the requests that it is for."""

    model: str
    """A model name, or a pattern in which `*` stands for any characters. Exact names are tried first, then the patterns
    in order.

    Required.
    """
    to: object
    """The targets, in the order in which they are tried ([when the next one is](request-path.md#attempts)), three at
    most; a nested list is a group, whose targets share the load.

    Required.
    """
    balance: str
    """How a group shares the load: `"affinity"`, `"least_busy"` or `"weighted"`.

    Default: `"affinity"`
    """
    hedge: object
    """A duration: where a response has not begun by then, [the next target is called too](routing.md#hedging).

    Default: never
    """
    principals: list[str]
    """A condition: the names of callers and patterns that the route is for.

    Default: `["*"]`
    """
    teams: list[str]
    """A condition: the teams and patterns that the route is for.

    Default: `["*"]`
    """
    headers: dict[str, Any]
    """A condition: a table of request headers and patterns of their values.

    Default: none
    """
    min_bytes: int
    """A condition: the smallest request body, in bytes.

    Default: none
    """
    max_bytes: int
    """A condition: the largest request body, in bytes.

    Default: none
    """
    features: list[str]
    """A condition: betas and top-level request fields, by name or pattern, of which a request uses at least one.

    Default: `["*"]`
    """
    retry_without_thinking: bool
    """Whether a request whose thinking blocks are refused is tried again [without
    them](routing.md#thinking-blocks-of-another-service).

    Default: `false`
    """
    failover_on_unknown: bool
    """Whether the next target is tried where a request was sent and no response came: [it may then be billed
    twice](request-path.md#attempts).

    Default: `true`
    """


class TargetConfig(TypedDict, total=False):
    """A provider and its name for the model, its share of a group, how much it gets at once, and its timeouts."""

    provider: str
    """The name of a provider.

    Required.
    """
    model: str
    """The model name to send.

    Default: the name that the client sent
    """
    weight: int
    """Its share in its group, 1 to 1000. A weight in a list without nested lists makes one group of that list.

    Default: 1
    """
    concurrency: int
    """How many requests this process may have in flight there.

    Default: no limit
    """
    timeouts: object
    """Timeouts in place of all those of the provider.

    Default: those of the provider
    """


class TimeoutsConfig(TypedDict, total=False):
    """The timeouts of an upstream request, as durations."""

    connect: object
    first_byte: object
    silence: object
    total: object
