"""What the table of a provider may hold, by its kind. See `tables`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bud_asgi.config.tables import NOT_SHOWN, Name
from bud_asgi.providers.anthropic import BASE_URL
from bud_asgi.providers.bedrock.provider import ClientHeader, InferenceProfile, ServiceTier

KIND_WORDS = '"anthropic", "bedrock" or "vertex"'

BASE_URL_PATTERN = r"\Ahttps?://[^\s@?#]+\Z"
"""A URL that can hold no credential, and so may be shown."""

BASE_URL_WORDS = "an http or https URL without user, query and fragment; a credential belongs in the API key"

AWS_REGION_WORDS = 'a region of AWS, such as "us-east-1"'
PROJECT_WORDS = "the id of a project of Google Cloud"

Reference = Annotated[
    str,
    Meta(
        pattern=r"\A(env:[A-Za-z_][A-Za-z0-9_]*|file:[^\0]+)\Z",
        description="a reference to the secret, env:NAME or file:PATH",
        extra=NOT_SHOWN,
    ),
]
Flag = Annotated[bool, Meta(description="true or false")]
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="a number of seconds, more than 0 and at most 86400")]
TimeoutsPart = Annotated[dict[str, Any], Meta(description="a table of connect, first_byte and silence, in seconds")]
Betas = Annotated[
    tuple[Annotated[str, Meta(pattern=r"\A[0-9A-Za-z._-]{1,100}\Z")], ...],
    Meta(min_length=1, description='a list of beta flags, such as ["context-1m-2025-08-07"]'),
]
Fields = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...],
    Meta(min_length=1, description='a list of top-level fields of a request, such as ["metadata"]'),
]
Location = Annotated[
    str, Meta(pattern=r"\A[a-z0-9-]{1,63}\Z", description='a location, "global", "us", "eu" or a region')
]
Project = Annotated[str, Meta(pattern=r"\A[!-~]{1,200}\Z", description=PROJECT_WORDS)]


class TimeoutsTable(msgspec.Struct, frozen=True):
    """How long the parts of a call may take."""

    connect: Seconds = 5.0
    first_byte: Seconds = 600.0
    silence: Seconds = 300.0


class AnthropicTable(msgspec.Struct, frozen=True):
    """A provider of the kind `anthropic`."""

    kind: Literal["anthropic"]
    api_key: Reference = ""
    base_url: Annotated[str, Meta(pattern=BASE_URL_PATTERN, description=BASE_URL_WORDS, extra=NOT_SHOWN)] = BASE_URL
    auth: Annotated[Literal["x-api-key", "bearer", "client"], Meta(description='"x-api-key", "bearer" or "client"')] = (
        "x-api-key"
    )
    trace_context: Flag = False
    timeouts: TimeoutsPart = {}


class BedrockTable(msgspec.Struct, frozen=True):
    """A provider of the kind `bedrock`."""

    kind: Literal["bedrock"]
    region: Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,63}\Z", description=AWS_REGION_WORDS)] = ""
    endpoint: Annotated[
        str,
        Meta(
            pattern=r"\A[^\s@?#]+\Z",
            description="a host, or an http or https URL without user, query and fragment",
            extra=NOT_SHOWN,
        ),
    ] = ""
    inference_profile: Annotated[
        InferenceProfile,
        Meta(description='"auto", "none", "global", "us", "eu", "jp", "apac", "au" or "us-gov"'),
    ] = "auto"
    model_ids: Annotated[
        dict[str, Any], Meta(min_length=1, description="a table of ids or ARNs of models on Bedrock, by model name")
    ] = {}
    service_tier: Annotated[ServiceTier | None, Meta(description='"default", "flex", "priority" or "reserved"')] = None
    guardrail: Annotated[dict[str, Any], Meta(min_length=1, description="a table of id and version")] = {}
    client_headers: Annotated[
        tuple[ClientHeader, ...],
        Meta(min_length=1, description='a list of headers of InvokeModel, such as ["x-amzn-bedrock-service-tier"]'),
    ] = ()
    user_profiles: Flag = False
    allow_betas: Betas = ()
    drop_fields: Fields = ()
    timeouts: TimeoutsPart = {}
    profile: Name = ""
    access_key: Reference = ""
    secret_key: Reference = ""
    session_token: Reference = ""
    bearer_token: Reference = ""
    role_arn: Annotated[
        str,
        Meta(
            pattern=r"\Aarn:[a-z-]+:iam::[0-9]{12}:role/[!-~]{1,576}\Z",
            description='the ARN of a role, such as "arn:aws:iam::123456789012:role/gateway"',
        ),
    ] = ""
    external_id: Annotated[
        str, Meta(pattern=r"\A[A-Za-z0-9_+=,.@:/-]{2,1224}\Z", description="the external id that the role asks for")
    ] = ""
    session_name: Annotated[
        str, Meta(pattern=r"\A[A-Za-z0-9_+=,.@-]{2,64}\Z", description="a name of 2 to 64 letters, digits and =,.@+_-")
    ] = ""


class GuardrailTable(msgspec.Struct, frozen=True):
    """A guardrail of Bedrock's."""

    id: Annotated[str, Meta(pattern=r"\A[!-~]{1,2048}\Z", description="the id or the ARN of a guardrail")]
    version: Annotated[
        Annotated[str, Meta(pattern=r"\A([1-9][0-9]{0,7}|DRAFT)\Z")] | Annotated[int, Meta(gt=0, lt=100_000_000)],
        Meta(description='the version of the guardrail, a number or "DRAFT"'),
    ]


class VertexTable(msgspec.Struct, frozen=True):
    """A provider of the kind `vertex`."""

    kind: Literal["vertex"]
    project: Project = ""
    region: Location = "global"
    count_region: Location = ""
    base_url: Annotated[
        str,
        Meta(
            pattern=BASE_URL_PATTERN,
            description="an http or https URL without user, query and fragment",
            extra=NOT_SHOWN,
        ),
    ] = ""
    service_account_file: Annotated[
        str,
        Meta(
            pattern=r"\A(?!env:|file:)[^\0-\x1f{}]{1,1000}\Z",
            description="the path of the file with a service account's key",
            extra=NOT_SHOWN,
        ),
    ] = ""
    quota_project: Project = ""
    allow_betas: Betas = ()
    drop_fields: Fields = ()
    timeouts: TimeoutsPart = {}
