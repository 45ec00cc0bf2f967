"""Errors in Google's words: the error object of its APIs, the pages of its front end, and OAuth's own form.

Shapes: "Errors" of the Google APIs (`google.rpc.Status` as JSON, with `google.rpc.ErrorInfo` in its details) and
RFC 6749, section 5.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Reply
from bud_asgi.testing.server.service import Refusal

HTTP = {
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
"""The HTTP status of each status of `google.rpc.Code` that is told here."""

UNAUTHENTICATED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)
"""What a Google API says to a token that it doesn't take."""

_JSON = ("content-type", "application/json; charset=UTF-8")


class GoogleError(msgspec.Struct, frozen=True):
    """An error of a Google API: the name of its status, its words, and its `details`."""

    status: str
    message: str
    details: tuple[Mapping[str, Any], ...] = ()

    def reply(self, *, listed: bool = False) -> Reply:
        """The error object; `listed`: in an array, which is how it comes from a method that streams."""
        code = HTTP[self.status]
        error: dict[str, Any] = {"code": code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = [dict(detail) for detail in self.details]
        told: object = [{"error": error}] if listed else {"error": error}
        challenge = () if code != 401 else (("www-authenticate", 'Bearer realm="https://accounts.google.com/"'),)
        return Reply(status=code, headers=(_JSON, *challenge), body=json.dumps(told, indent=2).encode() + b"\n")


class GoogleRefused(Exception):
    """Google would refuse this request, with this reply."""

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message)
        self.refusal = Refusal(message, reply)


def reason(name: str, domain: str = "googleapis.com", **metadata: str) -> Mapping[str, Any]:
    """A detail that says why, for programs (`google.rpc.ErrorInfo`)."""
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": name,
        "domain": domain,
        "metadata": metadata,
    }


def google_error(status: str, message: str, *details: Mapping[str, Any]) -> Callable[[Received], Reply]:
    """An error of a Google API, as an array where the request streams. `status` is a name of `google.rpc.Code`."""
    error = GoogleError(status, message, details)
    return lambda received: error.reply(listed=streams(received))


def streams(received: Received) -> bool:
    """Whether the request calls a method that streams."""
    return received.path.endswith(b":streamRawPredict")


def google_html(status: int = 502) -> Reply:
    """The page of Google's front end, which has no JSON for anyone."""
    words = {404: "The requested URL was not found on this server."}.get(status, "Please try again in 30 seconds.")
    page = (
        f"<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n<title>Error {status}</title>\n"
        f"<p><b>{status}.</b> <ins>That's an error.</ins>\n<p>{words} <ins>That's all we know.</ins>\n"
    )
    return Reply(status=status, headers=(("content-type", "text/html; charset=UTF-8"),), body=page.encode())


def oauth_error(error: str, description: str, *, status: int = 400) -> Reply:
    """A token endpoint's refusal, such as `invalid_grant`."""
    told = {"error": error, "error_description": description}
    return Reply(status=status, headers=(_JSON,), body=json.dumps(told).encode())


def no_grant(error: str, description: str, *, status: int = 400) -> GoogleRefused:
    """A refusal of a token endpoint, to be raised."""
    return GoogleRefused(description, oauth_error(error, description, status=status))
