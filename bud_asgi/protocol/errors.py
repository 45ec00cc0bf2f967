"""The error envelope of the Messages API, its types and statuses (vendor page "Errors").

Every failure of the gateway is a `GatewayError`, raised once where it is known. `error_body` is the one place where
one becomes JSON, as a response or as the data of an SSE `error` event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from bud_asgi.protocol.malformed import MALFORMED_JSON

Details = Mapping[str, str | int | list[str]]

Outcome = Literal["answered", "refused", "upstream_failed", "client_gone", "cancelled"]
"""How an exchange ended.

`answered`: the upstream's reply was delivered, an error of its own included. `refused`: rejected by the gateway.
`upstream_failed`: no complete reply arrived. `client_gone`: the client disconnected. `cancelled`: by the host's server
or by a drain.
"""


_RETRYABLE = frozenset({408, 409, 429})
"""The statuses below 500 that official SDKs retry."""


class GatewayError(Exception):
    """A failure that the client receives as an Anthropic error object.

    `status` and `type` are the HTTP status and the error type that go together. `retryable` is `False` where sending
    the same request again is pointless (`x-should-retry: false`). `outcome` is how an exchange ends that this error
    answers. The message is for the client: it holds no secret and no internal name. `headers` are added to the
    response, `details` to the error object. `upstream_body` is an upstream's own error object, passed on unchanged.
    """

    status: int = 500
    type: str = "api_error"
    retryable: bool | None = None
    outcome: Outcome = "refused"
    upstream_body: bytes | None = None

    def __init__(
        self, message: str, *, headers: Mapping[str, str] | None = None, details: Details | None = None
    ) -> None:
        super().__init__(message)
        self.headers: Mapping[str, str] = headers or {}
        self.details = details


class InvalidRequest(GatewayError):
    """The request is invalid; the message names the field, or what is wrong with the body as a whole."""

    status = 400
    type = "invalid_request_error"
    retryable = False


class NotFound(GatewayError):
    """No path or model of that name is served here."""

    status = 404
    type = "not_found_error"
    retryable = False


class MethodNotAllowed(GatewayError):
    """The path does not support this method; the `allow` header lists those that it does."""

    status = 405
    type = "invalid_request_error"
    retryable = False


class ModelNotAllowed(GatewayError):
    """The model that a field names exists, but this principal may not use it."""

    status = 403
    type = "permission_error"
    retryable = False

    def __init__(self, model: str, field: str = "model") -> None:
        super().__init__(f"{field}: {model} is not among the models that you may use")


class RequestTooLarge(GatewayError):
    """The body exceeds the size limit."""

    status = 413
    type = "request_too_large"
    retryable = False


class RequestTimeout(GatewayError):
    """The client paused for too long within its request body, or took too long for all of it."""

    status = 408
    type = "timeout_error"


class HeadTooLarge(GatewayError):
    """The request line and the header fields together exceed a limit."""

    status = 431
    type = "invalid_request_error"
    retryable = False


class LoopDetected(GatewayError):
    """The request has been through this gateway before, or through too many gateways."""

    status = 508
    type = "api_error"
    retryable = False


class HostRefused(GatewayError):
    """The host's own code refused the request, by Starlette's `HTTPException`: its status, detail and headers.

    A status below 400, such as a redirect to a login page, becomes a 401 without headers: no API client can use it.
    A detail that is not a string is written as JSON.
    """

    def __init__(self, status: int, detail: object, headers: Mapping[str, str] | None) -> None:
        is_error = 400 <= status < 600
        if not isinstance(detail, str):
            detail = msgspec.json.encode(detail, enc_hook=lambda value: type(value).__name__).decode()
        lines = headers.items() if headers and is_error else ()
        super().__init__(detail, headers={name: value for name, value in lines if name.lower()[:8] != "content-"})
        self.status = status if is_error else 401
        self.type = type_of_status(self.status)
        self.retryable = None if self.status in _RETRYABLE or self.status >= 500 else False


class ShuttingDown(GatewayError):
    """The gateway is stopping: another replica, or this one after its restart, can serve the request."""

    status = 529
    type = "overloaded_error"

    def __init__(self) -> None:
        super().__init__("The gateway is shutting down.", headers={"retry-after": "1"})


class ClientGone(GatewayError):
    """The client disconnected before it was answered. It is never read; it ends the exchange."""

    status = 499
    type = "api_error"
    outcome = "client_gone"


STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status of each error type, for an `error` event that arrives before the response has started."""


def known_type(kind: str | None, otherwise: str) -> str:
    """An error type, if it is one of the Messages API: an upstream may send any text."""
    return kind if kind is not None and kind in STATUS_OF_TYPE else otherwise


def type_of_status(status: int) -> str:
    """The error type of a status; for a status that has none, that of its class."""
    if status == 408:
        return "timeout_error"
    types = (kind for kind, its_status in STATUS_OF_TYPE.items() if its_status == status)
    return next(types, "invalid_request_error" if status < 500 else "api_error")


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of an error object. `details` is optional; its `error_code` is the stable machine code."""

    type: str
    message: str
    details: Details | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The body of every error: of a response, or of an SSE `error` event."""

    error: ErrorDetail
    request_id: str


def error_body(error: GatewayError, request_id: str) -> bytes:
    """Render an error as the JSON that the client gets: an upstream's own as it is, any other on one line."""
    if error.upstream_body is not None:
        return error.upstream_body
    detail = ErrorDetail(error.type, str(error), error.details)
    return msgspec.json.encode(ErrorEnvelope(detail, request_id))


def error_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """The headers that an error adds to its response: its own ones and `x-should-retry`."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    if error.retryable is False:
        headers.append((b"x-should-retry", b"false"))
    return headers


class _UpstreamDetail(msgspec.Struct, frozen=True):
    type: str
    message: str
    details: dict[str, msgspec.Raw] | None = None
    code: msgspec.Raw = msgspec.Raw()
    param: msgspec.Raw = msgspec.Raw()


class _UpstreamEnvelope(msgspec.Struct, frozen=True):
    error: _UpstreamDetail
    type: msgspec.Raw = msgspec.Raw()


class UpstreamError(msgspec.Struct, frozen=True):
    """An upstream's error object. `has_code`: it has a `details.error_code`. `is_foreign`: it is OpenAI's, not ours."""

    type: str
    message: str
    has_code: bool
    is_foreign: bool = False


_decode_envelope = msgspec.json.Decoder(_UpstreamEnvelope).decode


def read_error(body: bytes) -> UpstreamError | None:
    """Read an error object, or the edge's shorter form (no `type`, no `request_id`); `None` if it is neither."""
    try:
        envelope = _decode_envelope(body)
    except MALFORMED_JSON:
        return None
    detail = envelope.error
    is_foreign = bool(bytes(detail.code) or bytes(detail.param)) and bytes(envelope.type) != b'"error"'
    return UpstreamError(detail.type, detail.message, "error_code" in (detail.details or {}), is_foreign)
