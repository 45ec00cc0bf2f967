"""Errors in Google's formats: the error object of its APIs, the HTML pages of its front end, and OAuth's errors.

Formats: "Errors" of the Google APIs (`google.rpc.Status` as JSON, with `google.rpc.ErrorInfo` in its details) and
RFC 6749, section 5.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Reply
from bud_asgi.testing.server.service import Rejection

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The HTTP status of each `google.rpc.Code`."""

UNAUTHENTICATED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
"""The message of a Google API for an invalid token."""

_JSON = ("content-type", "application/json; charset=UTF-8")


class GoogleError(msgspec.Struct, frozen=True):
    """An error of a Google API: the name of its `google.rpc.Code`, its message, and its `details`."""

    status: str
    message: str
    details: tuple[Mapping[str, Any], ...] = ()

    def reply(self, *, as_array: bool = False) -> Reply:
        """Return the error object as a reply. Methods that stream send it in an array: `as_array`."""
        code = HTTP_STATUS[self.status]
        error: dict[str, Any] = {"code": code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = [dict(detail) for detail in self.details]
        body: object = [{"error": error}] if as_array else {"error": error}
        challenge = () if code != 401 else (("www-authenticate", 'Bearer realm="https://accounts.google.com/"'),)
        return Reply(status=code, headers=(_JSON, *challenge), body=json.dumps(body, indent=2).encode() + b"\n")


class GoogleRejected(Exception):
    """Google would answer this request with this error."""

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message)
        self.rejection = Rejection(message, reply)


def error_info(name: str, domain: str = "googleapis.com", **metadata: str) -> Mapping[str, Any]:
    """Build the detail with the machine-readable reason (`google.rpc.ErrorInfo`)."""
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": name,
        "domain": domain,
        "metadata": metadata,
    }


def google_error(status: str, message: str, *details: Mapping[str, Any]) -> Callable[[Received], Reply]:
    """An error of a Google API, in an array if the request streams. `status` is a name of `google.rpc.Code`."""
    error = GoogleError(status, message, details)
    return lambda received: error.reply(as_array=is_streaming(received))


def is_streaming(received: Received) -> bool:
    """Whether the request calls a method that streams."""
    return received.path.endswith(b":streamRawPredict")


def google_html(status: int = 502) -> Reply:
    """An HTML error page of Google's front end."""
    advice = {404: "The requested URL was not found on this server."}.get(status, "Please try again in 30 seconds.")
    page = (
        f"<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n<title>Error {status}</title>\n"
        f"<p><b>{status}.</b> <ins>That's an error.</ins>\n<p>{advice} <ins>That's all we know.</ins>\n"
    )
    return Reply(status=status, headers=(("content-type", "text/html; charset=UTF-8"),), body=page.encode())


def oauth_error(error: str, description: str, *, status: int = 400) -> Reply:
    """An error of a token endpoint, such as `invalid_grant`."""
    fields = {"error": error, "error_description": description}
    return Reply(status=status, headers=(_JSON,), body=json.dumps(fields).encode())


def oauth_rejected(error: str, description: str, *, status: int = 400) -> GoogleRejected:
    """Make the exception for an error of a token endpoint."""
    return GoogleRejected(description, oauth_error(error, description, status=status))
