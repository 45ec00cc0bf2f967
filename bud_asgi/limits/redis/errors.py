"""Failures of calls to a Redis or Valkey server."""

from __future__ import annotations


class CallFailed(Exception):
    """A call that was not answered. If it was `sent`, whether the server has executed it is not known."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class ServerError(Exception):
    """An error that the server replied with, and executed nothing. `code` is its first word, such as `READONLY`."""

    def __init__(self, message: str) -> None:
        self.code = message.partition(" ")[0]
        super().__init__(self.code)
