"""What Vertex AI's front end says when it fails, in the words of the Messages API. Pure.

Its errors are objects of `google.rpc.Status`, in an array where the method streams. The model layer's are in the
envelope of the Messages API, and are none of this. Sources: Google, "Errors" (AIP-193), "Vertex AI API errors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from bud_asgi.protocol.errors import read_error, type_of_status
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.providers.seam import ProviderRequest

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
"""For a name that is not known."""
_SENTENCES: Mapping[int, str] = {
    403: "The upstream does not let the gateway use this model.",
    500: "The upstream failed.",
    502: "upstream authentication failed",
    504: "The model did not answer in time.",
}
"""What the client is told where the text may speak of accounts. The other texts are kept."""

_PRIVATE = (
    (re.compile(r"\b(projects/)[^/\s`'\",;)]+"), r"\1[project]"),
    (re.compile(r"\b(project(?:_number|_id|Id)?[=:] ?[`'\"]?)[\w.:-]+"), r"\1[project]"),
    (re.compile(r"\b([Pp]roject )(?:`[^`]+`|'[^']+'|\"[^\"]+\")"), r"\1[project]"),
    (re.compile(r"\b([Pp]roject (?:number )?#?)\d+\b"), r"\1[project]"),
    (re.compile(r"(?<![\w.-])\d{10,13}(?![\w-])"), "[project]"),
    (re.compile(r"\b[\w.+-]+@[\w.-]+\.gserviceaccount\.com\b"), "[account]"),
    (re.compile(r"\bprincipal(?:Set)?://[^\s`'\",;)]+"), "[account]"),
)


class GoogleError(msgspec.Struct, frozen=True):
    """An error of a Google API: the name of its code, its text, and the HTTP status that it came with."""

    name: str
    text: str
    status: int


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    status: str = ""


class _Object(msgspec.Struct, frozen=True):
    error: _Error


_decode_object = msgspec.json.Decoder(_Object).decode
_decode_list = msgspec.json.Decoder(list[_Object]).decode


def google_error(status: int, body: bytes) -> GoogleError | None:
    """The error of a Google API in a reply; `None` for one in the envelope, and for what is neither."""
    if read_error(body) is not None:
        return None
    try:
        said = _decode_list(body) if body.lstrip()[:1] == b"[" else [_decode_object(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not said or not (said[0].error.status or said[0].error.message):
        return None
    return GoogleError(said[0].error.status, said[0].error.message, status)


def refusal_of(error: GoogleError, call: ProviderRequest, projects: Sequence[str]) -> TranslatedUpstreamError:
    """What an error means to the client of a call. Its text is told to the log whole; `projects` are ours."""
    status = _STATUS.get(error.name) or _STATUS_OF_HTTP.get(error.status, 500)
    if status == 404:
        message = f"model: {call.request.model}"
        if call.request.counting and "/models/count-tokens" in error.text:
            message = "The upstream of this model does not count tokens."
    else:
        message = _SENTENCES.get(status) or scrubbed(error.text, projects) or "The upstream refused without a word."
    return TranslatedUpstreamError(
        message,
        status=status,
        type_=type_of_status(status),
        upstream_message=f"{error.status} {error.name}: {error.text}",
        credential=status == 502,
        retryable=False if status in {400, 403, 404, 413, 502} else None,
    )


def scrubbed(text: str, projects: Sequence[str]) -> str:
    """A text without the names and numbers of projects, those given and any other, and without service accounts."""
    for project in projects:
        text = re.sub(rf"(?<![\w-]){re.escape(project)}(?![\w-])", "[project]", text)
    for pattern, word in _PRIVATE:
        text = pattern.sub(word, text)
    return text
