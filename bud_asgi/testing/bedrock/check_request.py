"""Checks of a request as Bedrock Runtime makes them: path, caller, model, headers, then the body.

Sources: "InvokeModel", "CountTokens", "Troubleshooting Amazon Bedrock API error codes", "Claude on Amazon Bedrock".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from typing import Any, cast

import msgspec

from bud_asgi.testing.anthropic.check_body import check_fields, decode_body
from bud_asgi.testing.anthropic.check_values import Fields, expect_list, expect_string, require
from bud_asgi.testing.anthropic.errors import Rejected, invalid_request
from bud_asgi.testing.anthropic.models import generation
from bud_asgi.testing.bedrock.check_features import check_features
from bud_asgi.testing.bedrock.errors import AwsRejected
from bud_asgi.testing.bedrock.model_ids import ModelResolver, Route, parse_route
from bud_asgi.testing.bedrock.sigv4 import SignatureVerifier
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
"""The beta flags that Bedrock accepts. An unknown one fails the request; the error does not name it."""

_OLD, _NEW = "bedrock-2023-05-31", "2026-10-21"
_VERSIONS = {_OLD: "2023-06-01", _NEW: "2026-10-21"}
"""The values of `anthropic_version`, with the version of the Messages API that each stands for."""
_ENUMS = {
    "x-amzn-bedrock-trace": ("trace", ("ENABLED", "DISABLED", "ENABLED_FULL")),
    "x-amzn-bedrock-performanceconfig-latency": ("performanceConfigLatency", ("standard", "optimized")),
    "x-amzn-bedrock-service-tier": ("serviceTier", ("priority", "default", "flex", "reserved")),
}


class Rules(msgspec.Struct, frozen=True):
    """What requests are checked against."""

    signatures: SignatureVerifier
    api_keys: Collection[str]
    models: ModelResolver
    betas: Collection[str]
    signer: str | None = None


def check_request(received: Received, rules: Rules) -> None:
    """Check a request, which may be incomplete. Raises `AwsRejected`."""
    route = parse_route(received)
    if route is None or received.method != b"POST":
        raise AwsRejected("UnknownOperationException", "The requested operation is not recognized by the service.")
    _check_caller(received, rules)
    if not received.complete:
        raise AwsRejected("RequestEntityTooLargeException", "Request size exceeds the limit")
    model = rules.models.resolve(route)
    _check_headers(received)
    try:
        fields = _fields(received, route)
        _check_body(fields, model, rules)
    except Rejected as rejected:
        raise AwsRejected("ValidationException", rejected.message) from None


def _check_caller(received: Received, rules: Rules) -> None:
    """Check the signature or the API key. An `x-api-key` beside it is a gateway's mistake."""
    if received.values("x-api-key"):
        raise AwsRejected("AccessDeniedException", "x-api-key: a credential that is not for this service")
    scheme, _, token = b", ".join(received.values("authorization")).partition(b" ")
    if scheme.lower() != b"bearer":
        if not received.complete:
            return  # the signature is that of the complete body
        rules.signatures.verify(received)
    elif token.strip().decode("latin-1") not in rules.api_keys:
        message = "Authentication failed: Please make sure your API Key is valid."
        raise AwsRejected("AccessDeniedException", message, field="Message")


def _check_headers(received: Received) -> None:
    kind = (received.header("content-type") or b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        message = "The provided Content Type is invalid or not supported for this model"
        raise AwsRejected("ValidationException", message)
    if received.header("content-encoding") not in (None, b"identity"):
        raise _malformed()
    for header, (name, known) in _ENUMS.items():
        value = (received.header(header) or b"").decode("latin-1")
        if value and value not in known:
            problem = f"Value '{value}' at '{name}' failed to satisfy constraint: Member must satisfy enum value set"
            raise AwsRejected("ValidationException", f"1 validation error detected: {problem}: [{', '.join(known)}]")
    guardrail = [received.header(f"x-amzn-bedrock-guardrail{part}") is None for part in ("identifier", "version")]
    if guardrail[0] != guardrail[1]:
        message = "Guardrail identifier and version must be provided together."
        raise AwsRejected("ValidationException", message)


def invoke_body(received: Received, route: Route) -> bytes:
    """Return the body for the model, which CountTokens has wrapped in its own. Raises `AwsRejected`."""
    if route.operation != "CountTokens":
        return received.body
    try:
        wrapped: object = json.loads(received.body)["input"]["invokeModel"]["body"]
        return base64.b64decode(cast("str", wrapped), validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise AwsRejected("SerializationException", "The request body could not be read.") from None


def _fields(received: Received, route: Route) -> Fields:
    inner = Received(
        number=received.number, connection=received.connection, method=b"POST", target=b"", headers=received.headers
    )
    inner.body = invoke_body(received, route)
    try:
        return decode_body(inner)
    except Rejected:
        raise _malformed() from None


def _malformed() -> AwsRejected:
    message = "Malformed input request, please reformat your input and try again."
    return AwsRejected("ValidationException", message)


def _check_body(fields: Fields, model: str, rules: Rules) -> None:
    version = expect_string(require(fields, "anthropic_version"), "anthropic_version")
    known = (_OLD, _NEW) if generation(model) >= (4, 7) else (_OLD,)
    if version not in known:
        raise invalid_request(f"Invalid API version: {version}")
    betas = _betas(fields, model, rules.betas)
    check_features(fields, model, betas)
    common: dict[str, Any] = {
        name: value
        for name, value in fields.items()
        if name not in ("anthropic_version", "anthropic_beta", "safeguards")
    }
    check_fields(
        {**common, "model": model},
        version=_VERSIONS[version],
        betas=betas,
        known=(model,),
        counting=False,
        signer=rules.signer,
    )


def _betas(fields: Fields, model: str, known: Collection[str]) -> frozenset[str]:
    given = expect_list(fields.get("anthropic_beta", []), "anthropic_beta")
    flags = frozenset(expect_string(flag, f"anthropic_beta.{n}") for n, flag in enumerate(given))
    allowed = set(known)
    if generation(model) < (4, 5):
        allowed.discard("tool-search-tool-2025-10-19")
    if "safeguards" not in fields:
        allowed.discard("dangerous-tool-use-2026-09-03")
    if flags - allowed:
        raise invalid_request("invalid beta flag")
    return flags
