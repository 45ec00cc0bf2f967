"""Translates the errors of Vertex AI's front end to those of the Messages API. Pure.

They are `google.rpc.Status` objects, in an array if the method streams. Errors of the models themselves are Anthropic
errors already and are not handled here. Sources: Google, "Errors" (AIP-193), "Vertex AI API errors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil

import msgspec

from bud_asgi.protocol.errors import read_error, type_of_status
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.providers.seam import COUNTING_UNSUPPORTED, NO_MESSAGE, ProviderRequest

_STATUS: Mapping[str, int] = {
    "ABORTED": 500,
    "CANCELLED": 500,
    "DEADLINE_EXCEEDED": 504,
    "FAILED_PRECONDITION": 403,  # the project may not use the model
    "INTERNAL": 500,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "OUT_OF_RANGE": 400,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 502,
    "UNAVAILABLE": 529,
    "UNKNOWN": 500,
}
_STATUS_OF_HTTP: Mapping[int, int] = {
    400: 400,
    401: 502,
    403: 403,
    404: 404,
    408: 504,
    413: 413,
    429: 429,
    503: 529,
    504: 504,
}
"""The status for an error with an unknown name, by its HTTP status."""
_MESSAGES: Mapping[int, str] = {
    403: "The upstream does not let the gateway use this model.",
    500: "The upstream failed.",
    502: "upstream authentication failed",
    504: "The model did not answer in time.",
}
"""The client's message for statuses whose texts may name accounts. The texts of the others are passed on."""

_PRIVATE = (
    (re.compile(r"\b(projects/)[^/\s`'\",;)]+"), r"\1[project]"),
    (re.compile(r"\b(project(?:_number|_id|Id)?[=:] ?[`'\"]?)[\w.:-]+"), r"\1[project]"),
    (re.compile(r"\b([Pp]roject )(?:`[^`]+`|'[^']+'|\"[^\"]+\")"), r"\1[project]"),
    (re.compile(r"\b([Pp]roject (?:number )?#?)\d+\b"), r"\1[project]"),
    (re.compile(r"(?<![\w.-])\d{10,13}(?![\w-])"), "[project]"),
    (re.compile(r"\b[\w.+-]+@[\w.-]+\.gserviceaccount\.com\b"), "[account]"),
    (re.compile(r"\bprincipal(?:Set)?://[^\s`'\",;)]+"), "[account]"),
)


_DELAY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s")


class GoogleError(msgspec.Struct, frozen=True):
    """An error of a Google API: the name of its code, its text, its HTTP status, the seconds to wait before a retry."""

    name: str
    text: str
    status: int
    retry_after: int = 0


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    status: str = ""
    details: msgspec.Raw = msgspec.Raw()


class _Object(msgspec.Struct, frozen=True):
    error: _Error


class _RetryInfo(msgspec.Struct, frozen=True):
    delay: str = msgspec.field(name="retryDelay", default="")


_decode_details = msgspec.json.Decoder(list[_RetryInfo]).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_list = msgspec.json.Decoder(list[_Object]).decode


def google_error(status: int, body: bytes) -> GoogleError | None:
    """Return the Google API error in a reply; `None` for an Anthropic error and any other body."""
    if read_error(body) is not None:
        return None
    try:
        objects = _decode_list(body) if body.lstrip()[:1] == b"[" else [_decode_object(body)]
    except MALFORMED_JSON:
        return None
    if not objects or not (objects[0].error.status or objects[0].error.message):
        return None
    error = objects[0].error
    return GoogleError(error.status, error.message, status, _retry_after(error.details))


def _retry_after(details: msgspec.Raw) -> int:
    """Return the delay of a `google.rpc.RetryInfo` among the details, in whole seconds rounded up; 0 without one."""
    try:
        delays = [_DELAY.fullmatch(detail.delay) for detail in _decode_details(details)]
    except MALFORMED_JSON:
        return 0
    return next((ceil(float(delay[1])) for delay in delays if delay is not None), 0)


def translate(error: GoogleError, call: ProviderRequest, projects: Sequence[str]) -> TranslatedUpstreamError:
    """Translate an error for the client. Its full text is only kept for the log. `projects` are the operator's own."""
    status = _STATUS.get(error.name) or _STATUS_OF_HTTP.get(error.status, 500)
    if status == 404:
        message = f"model: {call.request.model}"
        if call.request.counting and "/models/count-tokens" in error.text:
            message = COUNTING_UNSUPPORTED
    else:
        message = _MESSAGES.get(status) or redacted(error.text, projects) or NO_MESSAGE
    translated = TranslatedUpstreamError(
        message,
        status=status,
        type_=type_of_status(status),
        upstream_message=f"{error.status} {error.name}: {error.text}",
        credential=status == 502,
        retryable=False if status in {400, 403, 404, 413, 502} else None,
    )
    if error.retry_after:
        translated.headers = {"retry-after": str(error.retry_after)}
    return translated


def redacted(text: str, projects: Sequence[str]) -> str:
    """Replace the names and numbers of projects, both `projects` and any other, and service accounts."""
    for project in projects:
        text = re.sub(rf"(?<![\w-]){re.escape(project)}(?![\w-])", "[project]", text)
    for pattern, replacement in _PRIVATE:
        text = pattern.sub(replacement, text)
    return text
