"""The error that ends a request: raised by the checks, turned into a reply by the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bud_asgi.testing.server.replies import Failure, Reply
from bud_asgi.testing.server.service import Rejection


class Rejected(Exception):
    """The service would answer this request with this status and error envelope."""

    def __init__(self, status: int, kind: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.rejection = Rejection(message, Reply(status=status, body=Failure(kind, message, details)))


def invalid_request(message: str) -> Rejected:
    """Make a 400 `invalid_request_error`."""
    return Rejected(400, "invalid_request_error", message)
