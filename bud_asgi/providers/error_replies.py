"""What an error reply of an upstream becomes, and how its texts are made fit for a log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bud_asgi.http import Header
from bud_asgi.printable import one_line
from bud_asgi.protocol.errors import GatewayError, NotFound, read_error, type_of_status
from bud_asgi.protocol.headers import Headers, credential_headers
from bud_asgi.providers.errors import TranslatedUpstreamError, UpstreamErrorResponse, UpstreamUnavailable
from bud_asgi.providers.seam import COUNTING_UNSUPPORTED, Credential, Provider, ProviderRequest
from bud_asgi.secret import redact

AUTHENTICATION_FAILED = "upstream authentication failed"
"""The client's message for every error about the gateway's own credential."""

_log = logging.getLogger("bud_asgi")


def decode_error(
    provider: Provider, call: ProviderRequest, status: int, fields: Headers, body: bytes, relayed: Sequence[Header]
) -> TranslatedUpstreamError | UpstreamErrorResponse:
    """Return the error in a reply with a status from 400 to 599; `relayed` are the headers that the client gets of it.

    An Anthropic error passes through, the provider's own forms are translated. Anything else (a page, an empty body)
    keeps its status and nothing of its text. Raises `NotFound` if the upstream does not count tokens.
    """
    error = provider.translate_error(call, status, fields, body)
    if error is None:
        parsed = read_error(body)
        if parsed is not None and not parsed.is_foreign:
            return UpstreamErrorResponse(status, body, list(relayed))
        error = _unknown_error(provider, call, status, body)
    kept = [line for line in relayed if line[0] == b"upstream-request-id"] if error.credential else relayed
    error.headers = {**error.headers, **{name.decode("ascii"): value.decode("ascii") for name, value in kept}}
    if "x-should-retry" in error.headers:
        error.retryable = None
    error.upstream_message = shown_in_log(provider.credential, call.headers, error.upstream_message)
    return error


def _unknown_error(provider: Provider, call: ProviderRequest, status: int, body: bytes) -> TranslatedUpstreamError:
    if status == 404 and call.request.counting:
        raise NotFound(COUNTING_UNSUPPORTED)
    text = f"{status} {body.decode('utf-8', 'replace')}"
    if status in {401, 403} and provider.credential.is_operators:
        error = TranslatedUpstreamError(
            AUTHENTICATION_FAILED,
            status=502,
            type_="api_error",
            upstream_message=text,
            credential=status == 401,  # a front end's 403 has other reasons than an expired credential
            denied=status == 403,
            retryable=False,
        )
    else:
        message = f"The upstream answered {status} without an error object."
        error = TranslatedUpstreamError(message, status=status, type_=type_of_status(status), upstream_message=text)
    if error.status >= 500:
        error.outcome = "upstream_failed"
    return error


def hide_credential_error(provider: Provider, request_id: str, error: GatewayError) -> GatewayError:
    """Replace an upstream's error about the gateway's own credential: the client cannot act on it.

    Some servers echo the credential in an error, whatever its status. All other errors are returned as they are.
    """
    if not isinstance(error, UpstreamErrorResponse) or not provider.credential.is_operators:
        return error
    parsed = read_error(error.body)
    text = error.body.decode("utf-8", "replace")
    redacted = provider.credential.redact(text)
    rejected = error.status == 401 or (error.status == 403 and parsed is not None and not parsed.has_code)
    if not rejected and redacted == text:
        return error
    _log.error("%s: %s rejected our credential: %s", request_id, provider.name, one_line(redacted))
    return authentication_failed()


def authentication_failed() -> UpstreamUnavailable:
    """Return the client's error where the upstream rejected, or echoed, the gateway's own credential."""
    return UpstreamUnavailable(AUTHENTICATION_FAILED, denied=True, retryable=False)


def shown_in_log(credential: Credential, headers: Headers, text: str) -> str:
    """Return a text of an upstream's as it may be logged: one line, without the credential of the gateway or client.

    `headers` are the client's.
    """
    text = credential.redact(text)
    parts = [part for _, value in credential_headers(headers) for part in value.decode("latin-1").split()]
    return one_line(redact(text, parts))
