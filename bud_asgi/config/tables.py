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


class KeyConfig(TypedDict, total=False):
    """The API key of a caller, as its hash."""

    name: str
    """The caller's name in limits and logs; unique.

    Required.
    """
    hash: str
    """`sha256:` and 64 hex digits, or `hmac-sha256:` for a key that was made with the [pepper](keys.md#pepper); never
    the key itself.

    Required.
    """
    owner: str
    """Who is responsible for the key; in the metadata of the principal.

    Default: none
    """
    team: str
    """The caller's team.

    Default: none
    """
    models: list[str]
    """The model names and patterns with `*` that the caller may request.

    Default: `["*"]`
    """
    limits: list[Any]
    """A list of [limits](#limits-rate-limits) of its own.

    Default: the general limits
    """
    metadata: dict[str, Any]
    """A table of strings for your own use, in the metadata of the principal.

    Default: none
    """
    expires: object
    """The time from which on the key is refused, with an offset: `2027-01-31T00:00:00Z`.

    Default: never
    """
    enabled: bool
    """`false` refuses the key.

    Default: `true`
    """
    previous_hash: str
    """The hash of the key that this one replaces.

    Default: none
    """
    previous_until: object
    """The time until which the previous key is accepted.

    Default: none
    """


class KeyStoreConfig(TypedDict, total=False):
    """Where further keys are looked up."""

    url: object
    """`sqlite:` and the path of a file, relative to the folder of the TOML file, or `postgresql://host/database` (`pip
    install '.[postgres]'`); or a [reference](#secrets) to a URL. One with a user or password must be a reference.

    Required.
    """
    timeout: object
    """How long a lookup waits for a lock or a connection.

    Default: `"1s"`
    """


class IssuerConfig(TypedDict, total=False):
    """An issuer of tokens, and the claims that describe the caller."""

    url: str
    """The exact `iss` of the tokens, also with its slash at the end if it has one: https, or http on the same machine.

    Required.
    """
    audience: object
    """The `aud` of the tokens, or a list of which one is enough.

    Required.
    """
    jwks_url: str
    """Where the keys are.

    Default: `jwks_uri` of `url` + `/.well-known/openid-configuration`
    """
    algorithms: list[str]
    """The signature algorithms: `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, `ES512`,
    `Ed25519`.

    Default: `["RS256", "ES256"]`
    """
    types: list[str]
    """The values of `typ` in the header; `"JWT"` includes tokens without one.

    Default: `["JWT", "at+jwt"]`
    """
    leeway: object
    """How far the clocks may differ, at most ten minutes.

    Default: 60 seconds
    """
    required: dict[str, Any]
    """A table of claims that must have a value, or one of a list; a string may be a pattern with `*`. A claim that is a
    list must contain it.

    Default: none
    """
    prefix: object
    """What the id of the caller begins with, so that two issuers never name the same caller.

    Default: `url` without its scheme, and a colon
    """
    id: object
    """The claim that identifies the caller.

    Default: `"sub"`
    """
    name: object
    """The claim with the name to display.

    Default: none
    """
    team: object
    """The claim with the team.

    Default: none
    """
    roles: object
    """The claim with the caller's roles or groups: a list, or a string with blanks between them.

    Default: none
    """
    grants: list[Any]
    """What each role gives: a list of tables. The first one whose role the caller has decides; a caller without any of
    the roles may use no model.

    Default: none: every model
    """
    metadata: list[str]
    """Claims that are copied to `principal.metadata`, for your own records.

    Default: none
    """


class GrantConfig(TypedDict, total=False):
    """What a role gives."""

    role: str
    """The role.

    Required.
    """
    models: list[str]
    """The model names and patterns with `*` that it gives.

    Default: `["*"]`
    """
    limits: list[Any]
    """A list of [limits](#limits-rate-limits) of the caller's own, as those of a [key](#keys-the-callers).

    Default: the general limits
    """


class ThrottleConfig(TypedDict, total=False):
    """How often an address may fail to authenticate."""

    failures: int
    """How often an address may fail at once, and again in each `window`.

    Default: 100
    """
    window: object
    """A [duration](#durations).

    Default: `"1m"`
    """
    trusted_proxies: list[str]
    """Addresses and networks of proxies: behind them the address is the last one in `x-forwarded-for` that is not a
    proxy's.

    Default: none: the address that the server reports
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


class AnthropicConfig(TypedDict, total=False):
    """A provider of the kind `anthropic`."""

    kind: str
    api_key: Secret
    """A [reference](#secrets) to the API key.

    Default: required, unless `base_url` is another server: then no key is sent
    """
    base_url: str
    """An http or https URL; `/v1/messages` is appended, unless it ends so or in `/v1`.

    Default: `"https://api.anthropic.com"`
    """
    auth: str
    """The header for the key, `"x-api-key"` or `"bearer"`; or `"client"`: no key, the client's own credential is passed
    on, except the one that proved the caller to the gateway.

    Default: `"x-api-key"`
    """
    trace_context: bool
    """Whether the client's `traceparent` and `tracestate` are passed on.

    Default: `false`
    """
    allow_betas: list[str]
    """Beta flags, or patterns with `*`, to send anyway; where both lists match a flag, the longer entry decides.

    Default: none
    """
    drop_betas: list[str]
    """Beta flags, or patterns with `*`, not to send.

    Default: none, or those that the cloud is not known to support
    """
    drop_fields: list[str]
    """Request fields to leave out: `"metadata"`, or paths such as `"tools.strict"`, in which a list stands for each of
    its items.

    Default: none, or those that the cloud is not known to support
    """
    timeouts: object
    """A table of durations, in seconds or as in `"30s"`: `connect` (name resolution, TCP and TLS), `first_byte` (from
    the end of the request to the head of the response), `silence` (the longest pause within the response), `total`
    (until the last byte of a JSON response; streams have no such limit).

    Default: 5, 600, 300, 900
    """


class GuardrailConfig(TypedDict, total=False):
    """A Bedrock guardrail."""

    id: str
    version: object


class BedrockConfig(TypedDict, total=False):
    """A provider of the kind `bedrock`."""

    kind: str
    region: str
    """The AWS region.

    Required.
    """
    endpoint: str
    """A host or URL that replaces the region's endpoint.

    Default: the region's endpoint
    """
    inference_profile: str
    """The inference profile to call: `"auto"`, `"none"`, `"global"`, `"us"`, `"eu"`, `"jp"`, `"apac"`, `"au"` or
    `"us-gov"`.

    Default: `"auto"`: the one that the model has in the region
    """
    model_ids: dict[str, Any]
    """A table of Bedrock ids or ARNs by model name.

    Default: derived from the model name
    """
    service_tier: str
    """For all requests: `"default"`, `"flex"`, `"priority"` or `"reserved"`.

    Default: not sent
    """
    guardrail: object
    """For all requests: a table of `id` and `version` (a number or `"DRAFT"`).

    Default: none
    """
    client_headers: list[str]
    """The `x-amzn-bedrock-...` headers that clients may set.

    Default: none
    """
    user_profiles: bool
    """Whether the client's `anthropic-user-profile-id` or `user_profile_id` is passed on.

    Default: `false`
    """
    allow_betas: list[str]
    drop_betas: list[str]
    drop_fields: list[str]
    timeouts: object
    profile: str
    """A profile of the AWS configuration files.

    Default: see below
    """
    access_key: Secret
    """A [reference](#secrets) to the id of an access key.

    Default: see below
    """
    secret_key: Secret
    """A [reference](#secrets) to the secret of the access key.

    Default: see below
    """
    session_token: Secret
    """A [reference](#secrets) to the session token of a temporary access key.

    Default: see below
    """
    bearer_token: Secret
    """A [reference](#secrets) to a Bedrock API key, sent instead of a signature.

    Default: see below
    """
    role_arn: str
    """The role to assume.

    Default: no role
    """
    external_id: object
    """The external id that the role requires.

    Default: none
    """
    session_name: str
    """The name of the role's session.

    Default: `"bud_asgi"`
    """


class VertexConfig(TypedDict, total=False):
    """A provider of the kind `vertex`."""

    kind: str
    project: str
    """The Google Cloud project.

    Required.
    """
    region: str
    """The location: `"global"`, `"us"`, `"eu"` or a region.

    Default: `"global"`
    """
    count_region: str
    """The location for counting tokens.

    Default: `region`
    """
    base_url: str
    """An http or https URL that replaces the location's endpoint.

    Default: the location's endpoint
    """
    service_account_file: object
    """The path of a service account's key file, relative to the folder of the TOML file.

    Default: Application Default Credentials
    """
    quota_project: str
    """The project that is charged for quota.

    Default: that of the credentials
    """
    allow_betas: list[str]
    drop_betas: list[str]
    drop_fields: list[str]
    timeouts: object
