"""The error envelope of the Messages API, its types and statuses (vendor page "Errors").

Every failure of the gateway is a `GatewayError`, raised once where it is known. `error_body` is the one place where
one becomes JSON, as a response or as the data of an SSE `error` event.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

Details = Mapping[str, str | int | list[str]]


class GatewayError(Exception):
    """A failure that the client is told of, in the envelope of the Messages API.

    `status` and `type` are the HTTP status and the error type that go together; `retryable` says with `False` that
    sending the same again is pointless, which the client is told by `x-should-retry: false`. The message is for the
    client: it holds no secret and no internal name. `headers` are added to the response, `details` to the envelope.
    """

    status: int = 500
    type: str = "api_error"
    retryable: bool | None = None

    def __init__(
        self, message: str, *, headers: Mapping[str, str] | None = None, details: Details | None = None
    ) -> None:
        super().__init__(message)
        self.headers: Mapping[str, str] = headers or {}
        self.details = details


class InvalidRequest(GatewayError):
    """What was sent can't be served; the message names the field, or says what is wrong with the whole body."""

    status = 400
    type = "invalid_request_error"
    retryable = False


class NotFound(GatewayError):
    """There is nothing of that name here: a path, or a model."""

    status = 404
    type = "not_found_error"
    retryable = False


class MethodNotAllowed(GatewayError):
    """The path exists, but not for this method; the `allow` header names those that it has."""

    status = 405
    type = "invalid_request_error"
    retryable = False


class RequestTooLarge(GatewayError):
    """The body is over the limit, known before it was buffered."""

    status = 413
    type = "request_too_large"
    retryable = False


class ShuttingDown(GatewayError):
    """The gateway is about to stop: another replica, or the next start, can take the request."""

    status = 529
    type = "overloaded_error"

    def __init__(self) -> None:
        super().__init__("The gateway is shutting down.", headers={"retry-after": "1", "connection": "close"})


class ClientGone(GatewayError):
    """The client left before it was answered: nobody reads this, it ends the exchange."""

    status = 499
    type = "api_error"


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
"""The status that goes with an error type, for an error that came as an event before the response had begun."""


def type_of_status(status: int) -> str:
    """The error type that goes with a status; for one that has none, that of its class."""
    types = (kind for kind, its_status in STATUS_OF_TYPE.items() if its_status == status)
    return next(types, "invalid_request_error" if status < 500 else "api_error")


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is inside an envelope. `details` is optional; its `error_code` is the stable machine code."""

    type: str
    message: str
    details: Details | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The body of every error: of a response, or of an SSE `error` event."""

    error: ErrorDetail
    request_id: str


def error_body(error: GatewayError, request_id: str) -> bytes:
    """Render an error as the JSON that the client gets, on one line."""
    detail = ErrorDetail(error.type, str(error), error.details)
    return msgspec.json.encode(ErrorEnvelope(detail, request_id))


def error_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """The headers that an error adds to its response: its own, and whether to retry."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    if error.retryable is False:
        headers.append((b"x-should-retry", b"false"))
    return headers


class _UpstreamDetail(msgspec.Struct, frozen=True):
    type: str
    message: str
    details: dict[str, msgspec.Raw] | None = None


class _UpstreamEnvelope(msgspec.Struct, frozen=True):
    error: _UpstreamDetail


class UpstreamError(msgspec.Struct, frozen=True):
    """What an upstream's error body says. `has_code`: it carries `details.error_code`."""

    type: str
    message: str
    has_code: bool


_decode_envelope = msgspec.json.Decoder(_UpstreamEnvelope).decode


def read_error(body: bytes) -> UpstreamError | None:
    """Read an error in the envelope, or the edge's barer one (no `type`, no `request_id`); `None` if it is neither."""
    try:
        detail = _decode_envelope(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return UpstreamError(detail.type, detail.message, "error_code" in (detail.details or {}))
