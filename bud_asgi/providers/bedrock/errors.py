"""Translates the errors of AWS to those of the Messages API. Pure.

An error has a name and a text, in a reply or in an event stream; the name determines its meaning. Sources: AWS,
"InvokeModel" (Errors), "InvokeModelWithResponseStream" (`ResponseStream`), "Common error types", "Troubleshooting
Amazon Bedrock API error codes"; vendor page "Errors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from bud_asgi.protocol.errors import type_of_status
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.providers.bedrock.frames import EventStreamHeaders
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.providers.seam import COUNTING_UNSUPPORTED, NO_MESSAGE

Kind = Literal[
    "invalid_request",
    "too_large",
    "rate_limit",
    "overloaded",
    "credential",
    "permission",
    "not_found",
    "timeout",
    "server_error",
    "model_error",
    "client_error",
]
"""The kinds of error. `credential`: the gateway's credential was rejected. `not_found`: no such model, or no tokens are
counted for it. `model_error`: passed through with the model's status. `client_error`: any other 4xx, status kept."""

_STATUS: Mapping[Kind, int] = {
    "invalid_request": 400,
    "too_large": 413,
    "rate_limit": 429,
    "overloaded": 529,
    "credential": 502,
    "permission": 403,
    "not_found": 404,
    "timeout": 504,
    "server_error": 500,
}
_MESSAGES: Mapping[Kind, str] = {
    "credential": "upstream authentication failed",
    "permission": "The upstream does not let the gateway use this model.",
    "timeout": "The model did not answer in time.",
    "server_error": "The upstream failed.",
    "client_error": "The upstream refused the request.",
}
"""The client's message for kinds whose texts may name accounts. The texts of the other kinds are passed on."""

_KINDS: Mapping[str, Kind] = {
    "AccessDenied": "permission",
    "BadCScore": "permission",
    "ExpiredToken": "credential",
    "FTUFormNotFilled": "permission",
    "IncompleteSignature": "credential",
    "InternalFailure": "server_error",
    "InternalServer": "server_error",
    "InvalidClientTokenId": "credential",
    "InvalidSignature": "credential",
    "MPAgreementBeingCreated": "permission",
    "MissingAuthenticationToken": "credential",
    "ModelError": "model_error",
    "ModelNotReady": "overloaded",
    "ModelStreamError": "server_error",
    "ModelTimeout": "timeout",
    "NotAuthorized": "permission",
    "OptInRequired": "permission",
    "RequestEntityTooLarge": "too_large",
    "RequestExpired": "credential",
    "ResourceNotFound": "not_found",
    "ServiceQuotaExceeded": "rate_limit",
    "ServiceUnavailable": "overloaded",
    "SignatureDoesNotMatch": "credential",
    "Throttling": "rate_limit",
    "UnrecognizedClient": "credential",
    "Validation": "invalid_request",
}
"""The kind of each error, by its name without the suffix `Exception`."""

_KIND_OF_STATUS: Mapping[int, Kind] = {
    400: "invalid_request",
    401: "credential",
    403: "permission",
    404: "not_found",
    408: "timeout",
    413: "too_large",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
"""The kind of an error with an unknown name."""

_TOO_LONG = "prompt is too long"
_IS_TOO_LONG = re.compile(r"(?:Input|[Pp]rompt) is too long")
_NO_SUCH_MODEL = re.compile(r"model identifier is invalid|on-demand throughput")
_NOT_COUNTED = re.compile(r"support counting tokens")
_CREDENTIAL_REJECTED = re.compile(
    r"(?<![\w./:@=-])(?:security token|expired|API key|x-api-key|bearer token|authentication failed)(?![\w/:@=-]|\.\w)",
    re.IGNORECASE,
)
_NAMES = re.compile(
    r"""arn:\S+|(?<!\w)(?:'[^']*'|"[^"]*"|`[^`]*`|\u2018[^\u2019]*\u2019|\u201c[^\u201d]*\u201d)(?!\w)"""
)
"""Names in a text: of resources, roles, models. They may contain any words."""
_WRAPPED = "The model returned the following errors: "

_PRIVATE = (
    (re.compile(r"\barn:[a-z-]+:[^\s\"'`;)\]]*[^\s\"'`;)\].,:]"), "[arn]"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "[access key]"),
    (re.compile(r"(?<![0-9A-Za-z])\d{12}(?![0-9A-Za-z])"), "[account]"),
)


class AwsError(msgspec.Struct, frozen=True):
    """An error of AWS: its name without namespace, its text, its HTTP status (0 in an event stream).

    `model_status` is the status of the model's own error, if the service passes that on.
    """

    name: str
    text: str
    status: int = 0
    model_status: int = 0


class _Body(msgspec.Struct, frozen=True):
    message: str | None = None
    Message: str | None = None
    code: str | None = None
    Code: str | None = None
    type: str | None = msgspec.field(default=None, name="__type")
    original_status: int | None = msgspec.field(default=None, name="originalStatusCode")
    original: str | None = msgspec.field(default=None, name="originalMessage")

    @property
    def text(self) -> str:
        return self.message or self.Message or self.original or ""

    @property
    def name(self) -> str:
        return self.code or self.Code or self.type or ""


_decode_body = msgspec.json.Decoder(_Body).decode


def error_in_reply(status: int, headers: Headers, body: bytes) -> AwsError | None:
    """Return the error in a reply of AWS (restJson1, "Operation error serialization"); `None` if it has none."""
    fields = _decode(body)
    name = headers.get(b"x-amzn-errortype", b"").decode("latin-1") or fields.name
    if not name and not fields.text:
        return None
    return AwsError(_bare(name), fields.text, status, fields.original_status or 0)


def error_in_message(headers: EventStreamHeaders, payload: bytes) -> AwsError | None:
    """Return the error in a message of an event stream; `None` if it has none.

    Errors, exceptions, and exceptions sent as events.
    """
    if headers.message_type == "error":
        return AwsError(_bare(headers.error_code or ""), headers.error_message or "")
    name = headers.exception_type if headers.message_type == "exception" else headers.event_type
    if headers.message_type != "exception" and not (name or "").endswith("Exception"):
        return None
    fields = _decode(payload)
    return AwsError(_bare(name or ""), fields.text, 0, fields.original_status or 0)


def translate(error: AwsError, model: str, *, counting: bool = False) -> TranslatedUpstreamError:
    """Translate an error for a client that requested `model`. Its full text is only kept for the log."""
    kind, text = _kind_of(error), redacted(error.text.removeprefix(_WRAPPED))
    status = _STATUS.get(kind) or (error.model_status if kind == "model_error" else error.status)
    message = _MESSAGES.get(kind, text) or NO_MESSAGE
    if kind == "not_found":
        message = f"model: {model}"
        if counting and _NOT_COUNTED.search(error.text):
            message = COUNTING_UNSUPPORTED
    elif status == 400 and _IS_TOO_LONG.search(text) and not text.startswith(_TOO_LONG):
        message = f"{_TOO_LONG}: {text}"
    return TranslatedUpstreamError(
        message,
        status=status,
        type_=type_of_status(status),
        upstream_message=f"{error.status or 'in the stream'} {error.name}: {error.text}",
        credential=kind == "credential",
        retryable=False if status in {400, 403, 404, 413, 502} else None,
    )


def redacted(text: str) -> str:
    """Replace ARNs, account numbers and access keys."""
    for pattern, replacement in _PRIVATE:
        text = pattern.sub(replacement, text)
    return text


def _kind_of(error: AwsError) -> Kind:
    kind = _KINDS.get(error.name.removesuffix("Exception")) or _KIND_OF_STATUS.get(error.status)
    if kind is None:
        return "client_error" if 400 <= error.status < 500 else "server_error"
    if kind == "model_error":
        return "model_error" if error.model_status in {400, 413, 429} else "server_error"
    if kind == "invalid_request" and (_NO_SUCH_MODEL.search(error.text) or _NOT_COUNTED.search(error.text)):
        return "not_found"
    if kind == "permission" and _CREDENTIAL_REJECTED.search(_NAMES.sub("", error.text)):
        return "credential"
    return kind


def _bare(name: str) -> str:
    """Return a name without namespace or URL, capitalised: in an event stream it starts with a lower-case letter."""
    bare = name.partition(":")[0].rpartition("#")[2].strip()
    return bare[:1].upper() + bare[1:]


def _decode(body: bytes) -> _Body:
    try:
        return _decode_body(body)
    except MALFORMED_JSON:
        return _Body()
