"""The errors that the server answers itself, before or instead of the app."""

from __future__ import annotations

from bud_asgi.protocol.errors import GatewayError, HeadTooLarge, InvalidRequest, error_body, error_headers
from bud_asgi.request_id import new_request_id
from bud_asgi.server.head import STATUS_LINES, render_lines


class SlowHead(GatewayError):
    """The head of a request did not arrive in time."""

    status = 408
    type = "timeout_error"

    def __init__(self) -> None:
        super().__init__("The request headers took too long to arrive")


class TooManyConnections(GatewayError):
    """The server has as many connections as it may have."""

    status = 503
    type = "api_error"

    def __init__(self) -> None:
        super().__init__("Too many connections", headers={"retry-after": "1"})


class Overloaded(GatewayError):
    """As many requests are running as may run."""

    status = 529
    type = "overloaded_error"

    def __init__(self) -> None:
        super().__init__("Too many requests are running", headers={"retry-after": "1", "connection": "close"})


def head_too_large() -> GatewayError:
    """The error for a head beyond the limits."""
    return HeadTooLarge("The request line and headers are too large")


def framing_too_large() -> GatewayError:
    """The error for a body whose trailers or chunk extensions are beyond the limit."""
    return HeadTooLarge("The trailers and chunk extensions of the request are too large")


def too_many_pipelined() -> GatewayError:
    """The error for a client that sends request after request without waiting for the responses."""
    return InvalidRequest("Too many requests were sent on this connection before their responses")


def not_http() -> GatewayError:
    """The error for what is not a valid HTTP/1.1 request."""
    return InvalidRequest("Invalid HTTP request received")


def render_parts(error: GatewayError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the body of an error, with a `request-id` of its own."""
    request_id = new_request_id()
    body = error_body(error, request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"request-id", request_id.encode()),
        *error_headers(error),
    ]
    return headers, body


def render(error: GatewayError, default_lines: bytes) -> bytes:
    """An error as a whole HTTP/1.1 response, after which the connection is closed."""
    headers, body = render_parts(error)
    lines, _ = render_lines([*headers, (b"connection", b"close")])
    return b"".join((STATUS_LINES[error.status], default_lines, lines, b"\r\n\r\n", body))
