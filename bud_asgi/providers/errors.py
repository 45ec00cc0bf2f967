"""How a call to an upstream can fail: no usable reply, a translated error, an error object that passes through."""

from __future__ import annotations

from bud_asgi.http import HttpError
from bud_asgi.protocol.errors import GatewayError, Outcome, read_error, type_of_status
from bud_asgi.protocol.headers import Headers


class UpstreamUnavailable(GatewayError):
    """An upstream gave no usable reply.

    `not_sent`: no byte of the request can have reached it. `denied`: it rejected the gateway's credential. The message
    names no host; the engine's own error is the cause (`__cause__`), for the log.
    """

    outcome = "upstream_failed"

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        type_: str = "api_error",
        not_sent: bool = False,
        denied: bool = False,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.not_sent = not_sent
        self.denied = denied
        self.retryable = retryable


class TranslatedUpstreamError(GatewayError):
    """An upstream's error in a format of its own, translated to the Messages API's.

    `upstream_message` is its whole text: for the log, because it may name accounts and projects. `credential`: it
    rejected the gateway's credential, so a fresh one is tried once. `denied`: it, or a front end of it, rejected the
    gateway for another reason. `fields` are the header fields of the response, by lower-case name.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type_: str,
        upstream_message: str,
        credential: bool = False,
        denied: bool = False,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.upstream_message = upstream_message
        self.credential = credential
        self.denied = denied
        self.retryable = retryable
        self.outcome: Outcome = "upstream_failed" if credential else "answered"
        self.fields: Headers = {}


class UpstreamErrorResponse(GatewayError):
    """An upstream's own error object, which passes through: its status, its bytes, and when to retry.

    `event`: it was the first event of a stream, not a response of its own. `fields` are the header fields of the
    response, by lower-case name.
    """

    outcome = "answered"

    def __init__(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]], *, event: bool = False) -> None:
        super().__init__("", headers={name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        self.status = status
        self.body = self.upstream_body = body
        self.event = event
        self.fields: Headers = {}
        error = read_error(body)
        self.type = type_of_status(status) if error is None else error.type


def unavailable(error: HttpError) -> UpstreamUnavailable:
    """Translate a failure of the engine, before or after the response has begun."""
    not_sent = not error.sent
    if error.kind == "timeout":
        return UpstreamUnavailable(
            "The upstream did not answer in time.", status=504, type_="timeout_error", not_sent=not_sent
        )
    if error.kind in {"connect", "tls"}:
        return UpstreamUnavailable("The upstream could not be reached.", not_sent=not_sent)
    if error.kind == "reset":
        return UpstreamUnavailable("The upstream closed the connection before its answer was whole.", not_sent=not_sent)
    return UpstreamUnavailable("The upstream's answer was malformed.", not_sent=not_sent)
