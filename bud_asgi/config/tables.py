"""The tables of a configuration file: their keys, and the TOML type of each value.

The constructors of the objects check the values, and their defaults apply to keys that are absent. `object` stands for
a value that only the constructor can judge, `Secret` for a reference to a secret.
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
    body_budget: int
    body_budget_per_principal: int
    access_log: bool
    opentelemetry: bool
    route_header: bool


class KeyConfig(TypedDict, total=False):
    """The API key of a caller, as its hash."""

    name: str
    hash: str
    owner: str
    team: str
    models: list[str]
    limits: list[Any]
    metadata: dict[str, Any]
    expires: object
    enabled: bool
    previous_hash: str
    previous_until: object


class KeyStoreConfig(TypedDict, total=False):
    """Where further keys are looked up."""

    url: object
    timeout: object


class IssuerConfig(TypedDict, total=False):
    """An issuer of tokens, and the claims that describe the caller."""

    url: str
    audience: object
    jwks_url: str
    algorithms: list[str]
    types: list[str]
    leeway: object
    required: dict[str, Any]
    prefix: object
    id: object
    name: object
    team: object
    roles: object
    grants: list[Any]
    metadata: list[str]


class GrantConfig(TypedDict, total=False):
    """What a role gives."""

    role: str
    models: list[str]
    limits: list[Any]


class ThrottleConfig(TypedDict, total=False):
    """How often an address may fail to authenticate."""

    failures: int
    window: object
    trusted_proxies: list[str]


class LimitConfig(TypedDict, total=False):
    """The amount of one kind, for whom, and what happens without room."""

    requests: int
    input_tokens: int
    output_tokens: int
    tokens: int
    concurrent: int
    window: object
    per: str
    models: list[str]
    teams: list[str]
    principals: list[str]
    mode: str
    wait: object
    cache_reads: bool


class StoreConfig(TypedDict, total=False):
    """Where limits are counted for several processes."""

    url: object
    timeout: object
    on_failure: str
    replicas: int
    prefix: str


class RouteConfig(TypedDict, total=False):
    """A model name or pattern, its targets, and the requests that it is for."""

    model: str
    to: object
    balance: str
    hedge: object
    principals: list[str]
    teams: list[str]
    headers: dict[str, Any]
    min_bytes: int
    max_bytes: int
    features: list[str]
    retry_without_thinking: bool
    failover_on_unknown: bool


class TargetConfig(TypedDict, total=False):
    """A provider and its name for the model, its share of a group, how much it gets at once, and its timeouts."""

    provider: str
    model: str
    weight: int
    concurrency: int
    timeouts: object


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
    base_url: str
    auth: str
    trace_context: bool
    allow_betas: list[str]
    drop_betas: list[str]
    drop_fields: list[str]
    timeouts: object


class GuardrailConfig(TypedDict, total=False):
    """A Bedrock guardrail."""

    id: str
    version: object


class BedrockConfig(TypedDict, total=False):
    """A provider of the kind `bedrock`."""

    kind: str
    region: str
    endpoint: str
    inference_profile: str
    model_ids: dict[str, Any]
    service_tier: str
    guardrail: object
    client_headers: list[str]
    user_profiles: bool
    allow_betas: list[str]
    drop_betas: list[str]
    drop_fields: list[str]
    timeouts: object
    profile: str
    access_key: Secret
    secret_key: Secret
    session_token: Secret
    bearer_token: Secret
    role_arn: str
    external_id: object
    session_name: str


class VertexConfig(TypedDict, total=False):
    """A provider of the kind `vertex`."""

    kind: str
    project: str
    region: str
    count_region: str
    base_url: str
    service_account_file: object
    quota_project: str
    allow_betas: list[str]
    drop_betas: list[str]
    drop_fields: list[str]
    timeouts: object
