"""What AWS says when it fails, in the words of the Messages API. Pure.

An error has a name and a text, in a reply or in an event stream; the name decides. Sources: AWS, "InvokeModel"
(Errors), "InvokeModelWithResponseStream" (`ResponseStream`), "Common error types", "Troubleshooting Amazon Bedrock API
error codes"; vendor page "Errors" for the other side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from bud_asgi.protocol.errors import type_of_status
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers.bedrock.frames import EventStreamMessage
from bud_asgi.providers.errors import TranslatedUpstreamError

Kind = Literal[
    "invalid",
    "too_large",
    "rate_limit",
    "overloaded",
    "credential",
    "permission",
    "model",
    "timeout",
    "failed",
    "own",
    "refused",
]
"""What an error means. `own`: the model's own, told through the service with the model's status. `refused`: who knows,
but the request is at fault, and the status is kept."""

_STATUS: Mapping[Kind, int] = {
    "invalid": 400,
    "too_large": 413,
    "rate_limit": 429,
    "overloaded": 529,
    "credential": 502,
    "permission": 403,
    "model": 404,
    "timeout": 504,
    "failed": 500,
}
_SENTENCES: Mapping[Kind, str] = {
    "credential": "upstream authentication failed",
    "permission": "The upstream does not let the gateway use this model.",
    "timeout": "The model did not answer in time.",
    "failed": "The upstream failed.",
    "refused": "The upstream refused the request.",
}
"""What the client is told of a kind whose texts speak of accounts. The texts of the others are kept."""

_KINDS: Mapping[str, Kind] = {
    "AccessDenied": "permission",
    "BadCScore": "permission",
    "ExpiredToken": "credential",
    "FTUFormNotFilled": "permission",
    "IncompleteSignature": "credential",
    "InternalFailure": "failed",
    "InternalServer": "failed",
    "InvalidClientTokenId": "credential",
    "InvalidSignature": "credential",
    "MPAgreementBeingCreated": "permission",
    "MissingAuthenticationToken": "credential",
    "ModelError": "own",
    "ModelNotReady": "overloaded",
    "ModelStreamError": "failed",
    "ModelTimeout": "timeout",
    "NotAuthorized": "permission",
    "OptInRequired": "permission",
    "RequestEntityTooLarge": "too_large",
    "RequestExpired": "credential",
    "ResourceNotFound": "model",
    "ServiceQuotaExceeded": "rate_limit",
    "ServiceUnavailable": "overloaded",
    "SignatureDoesNotMatch": "credential",
    "Throttling": "rate_limit",
    "UnrecognizedClient": "credential",
    "Validation": "invalid",
}
"""By the name of an error without `Exception` at its end."""

_KIND_OF_STATUS: Mapping[int, Kind] = {
    400: "invalid",
    401: "credential",
    403: "permission",
    404: "model",
    408: "timeout",
    413: "too_large",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}

_TOO_LONG = "prompt is too long"
_IS_TOO_LONG = re.compile(r"(?:Input|[Pp]rompt) is too long")
_NO_SUCH_MODEL = re.compile(r"model identifier is invalid|on-demand throughput")
_NOT_COUNTED = re.compile(r"support counting tokens")
_OF_CREDENTIAL = re.compile(r"security token|\bexpired\b|API.key|bearer token|authentication failed", re.IGNORECASE)
_WRAPPED = "The model returned the following errors: "

_PRIVATE = (
    (re.compile(r"\barn:[a-z-]+:[^\s\"'`;)\]]*[^\s\"'`;)\].,:]"), "[arn]"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "[access key]"),
    (re.compile(r"(?<![0-9A-Za-z])\d{12}(?![0-9A-Za-z])"), "[account]"),
)


class AwsFault(msgspec.Struct, frozen=True):
    """An error of AWS: its name without namespace, its text, the status that it came with (0 in an event stream).

    `model_status` is the model's own, where the service passes on what that said.
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


def fault_of_reply(status: int, headers: Headers, body: bytes) -> AwsFault | None:
    """The error in a reply of AWS (restJson1, "Operation error serialization"); `None` for a reply that has none."""
    said = _read(body)
    name = headers.get(b"x-amzn-errortype", b"").decode("latin-1") or said.name
    if not name and not said.text:
        return None
    return AwsFault(_bare(name), said.text, status, said.original_status or 0)


def fault_of_message(message: EventStreamMessage) -> AwsFault | None:
    """The error in a message of an event stream: an exception, also one that came as an event; `None` for no error."""
    headers = message.headers
    if headers.message_type == "error":
        return AwsFault(_bare(headers.error_code or ""), headers.error_message or "")
    name = headers.exception_type if headers.message_type == "exception" else headers.event_type
    if headers.message_type != "exception" and not (name or "").endswith("Exception"):
        return None
    said = _read(message.payload)
    return AwsFault(_bare(name or ""), said.text, 0, said.original_status or 0)


def refusal_of(fault: AwsFault, model: str, *, counting: bool = False) -> TranslatedUpstreamError:
    """What an error means to a client that asked for `model`. Its text is told to the log whole, as it came."""
    kind, text = _kind_of(fault), scrubbed(fault.text.removeprefix(_WRAPPED))
    status = _STATUS.get(kind) or (fault.model_status if kind == "own" else fault.status)
    message = _SENTENCES.get(kind, text) or "The upstream refused the request without a word."
    if kind == "model":
        message = f"model: {model}"
        if counting and _NOT_COUNTED.search(fault.text):
            message = "The upstream of this model does not count tokens."
    elif status == 400 and _IS_TOO_LONG.search(text) and not text.startswith(_TOO_LONG):
        message = f"{_TOO_LONG}: {text}"
    return TranslatedUpstreamError(
        message,
        status=status,
        type_=type_of_status(status),
        upstream_message=f"{fault.status or 'in the stream'} {fault.name}: {fault.text}",
        credential=kind == "credential",
        retryable=False if status in {400, 403, 404, 413, 502} else None,
    )


def scrubbed(text: str) -> str:
    """A text without ARNs, account numbers and access keys."""
    for pattern, word in _PRIVATE:
        text = pattern.sub(word, text)
    return text


def _kind_of(fault: AwsFault) -> Kind:
    kind = _KINDS.get(fault.name.removesuffix("Exception")) or _KIND_OF_STATUS.get(fault.status)
    if kind is None:
        return "refused" if 400 <= fault.status < 500 else "failed"
    if kind == "own":
        return "own" if fault.model_status in {400, 413, 429} else "failed"
    if kind == "invalid" and (_NO_SUCH_MODEL.search(fault.text) or _NOT_COUNTED.search(fault.text)):
        return "model"
    if kind == "permission" and _OF_CREDENTIAL.search(fault.text):
        return "credential"
    return kind


def _bare(name: str) -> str:
    """A name without its namespace; in an event stream it begins with a small letter."""
    bare = name.partition(":")[0].rpartition("#")[2].strip()
    return bare[:1].upper() + bare[1:]


def _read(body: bytes) -> _Body:
    try:
        return _decode_body(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Body()
