"""The one sender: adds the credential, sends, retries once with a fresh credential, and maps failures."""

from __future__ import annotations

import logging
import time

from bud_asgi.exchange import Attempt
from bud_asgi.http import HttpClient, HttpError, HttpReply, read_body
from bud_asgi.protocol.errors import GatewayError, NotFound, read_error
from bud_asgi.protocol.headers import Headers, relayed_headers, reply_fields, request_id_of
from bud_asgi.providers.errors import (
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    check_encoding,
    unavailable,
)
from bud_asgi.providers.hops import with_hops
from bud_asgi.providers.seam import COUNTING_UNSUPPORTED, Provider, ProviderRequest

_MAX_ERROR_BODY = 1 << 20
_MAX_LOGGED = 1000

_log = logging.getLogger("bud_asgi")


async def send(client: HttpClient, provider: Provider, call: ProviderRequest, attempt: Attempt) -> HttpReply:
    """Send a request to a provider; return its reply of status 200 in the Anthropic format.

    Notes in the attempt what was left out and what came back. Raises `UpstreamUnavailable`, `TranslatedUpstreamError`,
    `UpstreamErrorResponse`, and `InvalidRequest` or `NotFound` for what the provider does not support. Cancelled, the
    call is aborted at once. The caller closes the reply.
    """
    encoded = provider.encode(call)
    attempt.dropped = encoded.dropped
    request = with_hops(encoded.request, call.hops)
    try:
        sent = await provider.credential.apply(request, call.headers)
        reply = await client.send(sent)
        if reply.status == 200:
            return _accept(provider, call, reply, attempt)
        error = await _read_error(provider, call, reply, attempt)
        if _is_of_credential(error) and await provider.credential.refresh(sent):
            reply = await client.send(await provider.credential.apply(request, call.headers))
            if reply.status == 200:
                return _accept(provider, call, reply, attempt)
            error = await _read_error(provider, call, reply, attempt)
    except HttpError as failure:
        raise unavailable(failure) from failure
    if isinstance(error, TranslatedUpstreamError) and error.credential:
        _log.error("%s: %s rejected our credential: %.500r", call.request_id, provider.name, error.upstream_message)
    try:
        raise hide_credential_error(provider, call.request_id, error)
    finally:
        del error  # it refers to this frame by its traceback: a cycle would keep the body until the collector runs


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
    _log.error("%s: %s rejected our credential: %.500r", request_id, provider.name, redacted)
    return _authentication_failed()


def _authentication_failed() -> UpstreamUnavailable:
    return UpstreamUnavailable("upstream authentication failed", retryable=False)


def _accept(provider: Provider, call: ProviderRequest, reply: HttpReply, attempt: Attempt) -> HttpReply:
    fields = reply_fields(reply.headers)
    _note(attempt, reply.status, request_id_of(fields))
    try:
        check_encoding(fields)
        return provider.decode(call, reply)
    except BaseException:
        reply.close()
        raise


async def _read_error(
    provider: Provider, call: ProviderRequest, reply: HttpReply, attempt: Attempt
) -> TranslatedUpstreamError | UpstreamErrorResponse:
    """Read a reply that is not a 200. Raises `UpstreamUnavailable` for what is not an error object, `HttpError`."""
    try:
        fields = reply_fields(reply.headers)
        _note(attempt, reply.status, request_id_of(fields))
        error = await _parse_error(provider, call, reply, fields)
    finally:
        reply.close()
    if isinstance(error, TranslatedUpstreamError):
        redact = provider.credential.redact
        error.upstream_message = " ".join(redact(error.upstream_message).split())[:_MAX_LOGGED]
        if redact(str(error)) != str(error):
            _log.error(
                "%s: %s echoed our credential in an error: %.500r",
                call.request_id,
                provider.name,
                error.upstream_message,
            )
            raise _authentication_failed()
    return error


async def _parse_error(
    provider: Provider, call: ProviderRequest, reply: HttpReply, fields: Headers
) -> TranslatedUpstreamError | UpstreamErrorResponse:
    if reply.status < 400:
        raise UpstreamUnavailable(f"The upstream answered {reply.status} where a Message was expected.")
    check_encoding(fields)
    body, whole = await read_body(reply, _MAX_ERROR_BODY)
    if whole and (translated := provider.translate_error(call, reply.status, fields, body)) is not None:
        return translated
    if whole and read_error(body) is not None:
        return UpstreamErrorResponse(reply.status, body, relayed_headers(fields, error=True))
    if reply.status == 401 and provider.credential.is_operators:
        return TranslatedUpstreamError(
            "upstream authentication failed",
            status=502,
            type_="api_error",
            upstream_message=f"401 {body[:500].decode('utf-8', 'replace')}",
            credential=True,
            retryable=False,
        )
    if reply.status == 404 and call.request.counting:
        raise NotFound(COUNTING_UNSUPPORTED)
    raise UpstreamUnavailable(f"The upstream answered {reply.status} without an error object.")


def _is_of_credential(error: TranslatedUpstreamError | UpstreamErrorResponse) -> bool:
    return error.status == 401 if isinstance(error, UpstreamErrorResponse) else error.credential


def _note(attempt: Attempt, status: int, request_id: bytes) -> None:
    attempt.head = time.monotonic()
    attempt.status = status
    attempt.upstream_request_id = request_id.decode("latin-1") or None
