"""A refusal of the judge: raised where it is found, turned into a reply in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bud_asgi.testing.server.replies import Failure


class Refused(Exception):
    """The service would refuse this request, with this status and envelope."""

    def __init__(self, status: int, failure: Failure) -> None:
        super().__init__(failure.message)
        self.status = status
        self.failure = failure

    @property
    def message(self) -> str:
        """The words of the refusal."""
        return self.failure.message


def refuse(status: int, kind: str, message: str, details: Mapping[str, Any] | None = None) -> Refused:
    """A refusal, to be raised."""
    return Refused(status, Failure(kind, message, details))


def invalid(message: str) -> Refused:
    """A 400 `invalid_request_error`, to be raised."""
    return refuse(400, "invalid_request_error", message)
