"""The tables of a configuration file for providers (`tables` has the rest)."""

from __future__ import annotations

from typing import Any, TypedDict

from bud_asgi.secret import Secret


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
    """Whether the client's `traceparent` and `tracestate` are passed on, or with
    [OpenTelemetry](observability.md#traces) those of the attempt.

    Default: `false`
    """
    allow_betas: list[str]
    """Beta flags, or patterns with `*`, to send anyway; where both lists match a flag, the longer entry decides.

    Default: none
    """
    drop_betas: list[str]
    """Beta flags, or patterns with `*`, not to send.

    Default: none
    """
    drop_fields: list[str]
    """Request fields to leave out: `"metadata"`, or paths such as `"tools.strict"`, in which a list stands for each of
    its items.

    Default: none
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
