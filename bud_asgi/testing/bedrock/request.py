"""What Bedrock Runtime refuses: the path, the caller, the model, the headers, then the body, as the model does.

Sources: "InvokeModel", "CountTokens", "Troubleshooting Amazon Bedrock API error codes", "Claude on Amazon Bedrock".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from typing import Any, cast

import msgspec

from bud_asgi.testing.anthropic.body import decoded, judge_fields
from bud_asgi.testing.anthropic.checks import Fields, a_list, a_string, required
from bud_asgi.testing.anthropic.models import generation
from bud_asgi.testing.anthropic.refusals import Refused, invalid
from bud_asgi.testing.bedrock.errors import AwsError, AwsRefused, aws_refused
from bud_asgi.testing.bedrock.features import judge_features
from bud_asgi.testing.bedrock.models import Place, Route, route_of
from bud_asgi.testing.bedrock.sigv4 import Signer
from bud_asgi.testing.server.received import Received

BETAS = frozenset(
    {
        "compact-2026-01-12",
        "computer-use-2024-10-22",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-1m-2025-08-07",
        "context-management-2025-06-27",
        "dangerous-tool-use-2026-09-03",
        "dev-full-thinking-2025-05-14",
        "effort-2025-11-24",
        "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14",
        "mcp-client-2025-04-04",
        "mcp-client-2025-11-20",
        "mid-conversation-output-config-2026-07-01",
        "mid-conversation-tool-changes-2026-07-01",
        "model-context-window-exceeded-2025-08-26",
        "output-128k-2025-02-19",
        "pdfs-2024-09-25",
        "search-results-2025-06-09",
        "thinking-binding-controls-2026-08-01",
        "thinking-display-updates-2026-08-18",
        "token-counting-2024-11-01",
        "token-efficient-tools-2025-02-19",
        "tool-examples-2025-10-29",
        "tool-search-tool-2025-10-19",
        "web-search-2025-03-05",
    }
)
"""The beta flags that it takes. One that it doesn't know fails the whole request, and isn't named."""

_OLD, _NEW = "bedrock-2023-05-31", "2026-10-21"
_VERSIONS = {_OLD: "2023-06-01", _NEW: "2026-10-21"}
"""The values of `anthropic_version`, with the version of the Messages API that each stands for."""
_ENUMS = {
    "x-amzn-bedrock-trace": ("trace", ("ENABLED", "DISABLED", "ENABLED_FULL")),
    "x-amzn-bedrock-performanceconfig-latency": ("performanceConfigLatency", ("standard", "optimized")),
    "x-amzn-bedrock-service-tier": ("serviceTier", ("priority", "default", "flex", "reserved")),
}


class Rules(msgspec.Struct, frozen=True):
    """What this service knows: its callers, what it has and where, and the beta flags."""

    signer: Signer
    api_keys: Collection[str]
    place: Place
    betas: Collection[str]


def judge(received: Received, rules: Rules) -> None:
    """Refuse the request if the service would. Raises `AwsRefused`."""
    route = route_of(received)
    if route is None or received.method != b"POST":
        raise aws_refused("UnknownOperationException", "The requested operation is not recognized by the service.")
    _judge_caller(received, rules)
    if not received.complete:
        raise aws_refused("RequestEntityTooLargeException", "Request size exceeds the limit")
    model = rules.place.model(route)
    _judge_headers(received)
    try:
        fields = _fields(received, route)
        _judge_body(fields, model, rules)
    except Refused as refused:
        raise aws_refused("ValidationException", refused.message) from None


def _judge_caller(received: Received, rules: Rules) -> None:
    """A signature or an API key. A key of Anthropic's own API beside it is its sender's mistake."""
    if received.values("x-api-key"):
        raise aws_refused("AccessDeniedException", "x-api-key: a credential that is not for this service")
    scheme, _, token = b", ".join(received.values("authorization")).partition(b" ")
    if scheme.lower() != b"bearer":
        if not received.complete:
            return  # nobody signed for a part of a body
        rules.signer.verify(received)
    elif token.strip().decode("latin-1") not in rules.api_keys:
        words = "Authentication failed: Please make sure your API Key is valid."
        raise AwsRefused(AwsError("AccessDeniedException", words, field="Message"))


def _judge_headers(received: Received) -> None:
    kind = (received.header("content-type") or b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        words = "The provided Content Type is invalid or not supported for this model"
        raise aws_refused("ValidationException", words)
    if received.header("content-encoding") not in (None, b"identity"):
        raise _malformed()
    for header, (name, known) in _ENUMS.items():
        value = (received.header(header) or b"").decode("latin-1")
        if value and value not in known:
            words = f"Value '{value}' at '{name}' failed to satisfy constraint: Member must satisfy enum value set"
            raise aws_refused("ValidationException", f"1 validation error detected: {words}: [{', '.join(known)}]")
    guardrail = [received.header(f"x-amzn-bedrock-guardrail{part}") is None for part in ("identifier", "version")]
    if guardrail[0] != guardrail[1]:
        words = "Guardrail identifier and version must be provided together."
        raise aws_refused("ValidationException", words)


def invoke_body(received: Received, route: Route) -> bytes:
    """The body for the model: the request's own, or the one whose tokens are to be counted. Raises `AwsRefused`."""
    if route.operation != "CountTokens":
        return received.body
    try:
        wrapped: object = json.loads(received.body)["input"]["invokeModel"]["body"]
        return base64.b64decode(cast("str", wrapped), validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise aws_refused("SerializationException", "The request body could not be read.") from None


def _fields(received: Received, route: Route) -> Fields:
    inner = Received(
        number=received.number, connection=received.connection, method=b"POST", target=b"", headers=received.headers
    )
    inner.body = invoke_body(received, route)
    try:
        return decoded(inner)
    except Refused:
        raise _malformed() from None


def _malformed() -> AwsRefused:
    words = "Malformed input request, please reformat your input and try again."
    return aws_refused("ValidationException", words)


def _judge_body(fields: Fields, model: str, rules: Rules) -> None:
    version = a_string(required(fields, "anthropic_version"), "anthropic_version")
    known = (_OLD, _NEW) if generation(model) >= (4, 7) else (_OLD,)
    if version not in known:
        raise invalid(f"Invalid API version: {version}")
    betas = _betas(fields, model, rules.betas)
    judge_features(fields, model, betas)
    kept: dict[str, Any] = {
        name: value
        for name, value in fields.items()
        if name not in ("anthropic_version", "anthropic_beta", "safeguards")
    }
    judge_fields({**kept, "model": model}, version=_VERSIONS[version], betas=betas, known=(model,), counting=False)


def _betas(fields: Fields, model: str, known: Collection[str]) -> frozenset[str]:
    given = a_list(fields.get("anthropic_beta", []), "anthropic_beta")
    flags = frozenset(a_string(flag, f"anthropic_beta.{n}") for n, flag in enumerate(given))
    allowed = set(known)
    if generation(model) < (4, 5):
        allowed.discard("tool-search-tool-2025-10-19")
    if "safeguards" not in fields:
        allowed.discard("dangerous-tool-use-2026-09-03")
    if flags - allowed:
        raise invalid("invalid beta flag")
    return flags
