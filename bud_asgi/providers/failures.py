"""What a failed call means to the client, and whether another target may be tried."""

from __future__ import annotations

from bud_asgi.http import HttpError
from bud_asgi.protocol.errors import GatewayError


class UpstreamUnavailable(GatewayError):
    """No usable answer came from an upstream.

    `elsewhere`: nothing can have been begun there, so another target may be asked. The message names no host; what the
    engine said is the cause (`__cause__`), for the log.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        type_: str = "api_error",
        elsewhere: bool = False,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.elsewhere = elsewhere
        self.retryable = retryable


class TranslatedUpstreamError(GatewayError):
    """An upstream's own error that is not in the envelope, in the words of the Messages API.

    `told` is what it said, whole: for the log, because it may name accounts and projects. `credential`: it refused the
    gateway's credential, so a fresh one is tried once.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type_: str,
        told: str,
        credential: bool = False,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.told = told
        self.credential = credential
        self.retryable = retryable


def failure_of(error: HttpError) -> UpstreamUnavailable:
    """Translate a failure of the engine, before or after the response has begun."""
    elsewhere = not error.sent
    if error.kind == "timeout":
        return UpstreamUnavailable(
            "The upstream did not answer in time.", status=504, type_="timeout_error", elsewhere=elsewhere
        )
    if error.kind in {"connect", "tls"}:
        return UpstreamUnavailable("The upstream could not be reached.", elsewhere=elsewhere)
    if error.kind == "reset":
        return UpstreamUnavailable(
            "The upstream closed the connection before its answer was whole.", elsewhere=elsewhere
        )
    return UpstreamUnavailable("The upstream's answer was malformed.", elsewhere=elsewhere)
