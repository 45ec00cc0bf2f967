"""The one sender: adds the credential, sends, retries once with a fresh credential, and maps failures."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from bud_asgi.attempt import Attempt
from bud_asgi.http import HttpClient, HttpError, HttpReply, HttpRequest, Timeouts, decode_content, read_body
from bud_asgi.protocol.errors import GatewayError, InvalidRequest
from bud_asgi.protocol.headers import Headers, relayed_error_headers, reply_fields, request_id_of
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.error_replies import authentication_failed, decode_error, hide_credential_error
from bud_asgi.providers.errors import TranslatedUpstreamError, UpstreamErrorResponse, UpstreamUnavailable, unavailable
from bud_asgi.providers.hops import with_hops
from bud_asgi.providers.seam import EncodedRequest, Provider, ProviderRequest, traits_of
from bud_asgi.providers.threads import MAX_INLINE, start_thread

_MAX_ERROR_BODY = 1 << 20

_log = logging.getLogger("bud_asgi")


Accepted = tuple[HttpReply, Headers]
"""A reply of status 200 in the Anthropic format, and its header fields by lower-case name."""


async def send(client: HttpClient, provider: Provider, call: ProviderRequest, attempt: Attempt) -> Accepted:
    """Send a request to a provider; return its reply of status 200 in the Anthropic format, with its header fields.

    Notes in the attempt what was left out and what came back. Raises `UpstreamUnavailable`, `TranslatedUpstreamError`,
    `UpstreamErrorResponse`, and `InvalidRequest` or `NotFound` for what the provider does not support. Cancelled, the
    call is aborted at once. The caller closes the reply.
    """
    if call.request.violation:
        check_bounds(call.request, provider, call.model)
    inline = len(call.request.body) <= MAX_INLINE or not traits_of(provider).edits_bodies
    encoded = provider.encode(call) if inline else await _encode_in_thread(provider, call)
    if encoded.dropped:
        attempt.dropped += encoded.dropped
    request, credential = with_hops(encoded.request, call.hops), provider.credential
    timeouts = attempt.target.timeouts or request.timeouts
    if timeouts is not request.timeouts or timeouts.total < timeouts.first_byte:
        request = _with_timeouts(request, timeouts, streams=call.request.stream)
    refreshed = False
    try:
        while True:
            sent = await credential.apply(request, call.headers)
            attempt.sent, attempt.server = True, request.origin
            reply = await client.send(sent)
            if reply.status == 200:
                return _accept(provider, call, reply, attempt, request)
            error = await _read_error(provider, call, reply, attempt)
            if refreshed or not (_is_of_credential(error) and await credential.refresh(sent)):
                break
            refreshed = True
    except HttpError as failure:
        raise unavailable(failure) from failure
    if isinstance(error, TranslatedUpstreamError) and error.credential:
        _log.error("%s: %s rejected our credential: %s", call.request_id, provider.name, error.upstream_message)
    try:
        raise hide_credential_error(provider, call.request_id, error)
    finally:
        del error  # it refers to this frame by its traceback: a cycle would keep the body until the collector runs


def check_bounds(request: MessagesRequest, provider: Provider, model: str | None) -> None:
    """Raise `InvalidRequest` for what Anthropic's models reject, unless the upstream `model` is another vendor's."""
    if request.violation and not (
        traits_of(provider).has_own_bounds and "claude" not in (model or request.model).lower()
    ):
        raise InvalidRequest(request.violation)


def _with_timeouts(request: HttpRequest, timeouts: Timeouts, *, streams: bool) -> HttpRequest:
    """Use these timeouts. The head of a JSON reply is not awaited for longer than the whole of it."""
    if timeouts.total < timeouts.first_byte and not streams:
        timeouts = msgspec.structs.replace(timeouts, first_byte=timeouts.total)
    return msgspec.structs.replace(request, timeouts=timeouts)


async def _encode_in_thread(provider: Provider, call: ProviderRequest) -> EncodedRequest:
    """Encode a large request, which is edited: it would block the event loop for up to a second."""

    def encode() -> EncodedRequest | GatewayError:
        try:
            return provider.encode(call)
        except GatewayError as error:  # returned without its traceback: that would keep the body in a cycle
            return error.with_traceback(None)

    encoded = await asyncio.wrap_future(start_thread(encode, "bud_asgi encode"))
    if isinstance(encoded, GatewayError):
        raise encoded
    return encoded


def _accept(
    provider: Provider, call: ProviderRequest, reply: HttpReply, attempt: Attempt, request: HttpRequest
) -> Accepted:
    try:
        fields = _note_head(provider, reply, attempt)
        if not reply.done and not call.request.stream:
            attempt.deadline = attempt.started + request.timeouts.total
        decoded = provider.decode(call, _without_coding(reply) if b"content-encoding" in fields else reply)
        return decoded, fields if decoded is reply else reply_fields(decoded.headers)
    except BaseException:
        reply.close()
        raise


async def _read_error(
    provider: Provider, call: ProviderRequest, reply: HttpReply, attempt: Attempt
) -> TranslatedUpstreamError | UpstreamErrorResponse:
    """Read a reply that is not a 200. Raises `UpstreamUnavailable` if it is not an error either, and `HttpError`."""
    try:
        fields = _note_head(provider, reply, attempt)
        if not 400 <= reply.status <= 599:
            raise UpstreamUnavailable(f"The upstream answered {reply.status} where a Message was expected.")
        body, whole = await read_body(_without_coding(reply), _MAX_ERROR_BODY)
    finally:
        reply.close()
    relayed = relayed_error_headers(fields, attempt.upstream_request_id)
    error = decode_error(provider, call, reply.status, fields, body if whole else b"", relayed)
    error.fields = fields
    if isinstance(error, TranslatedUpstreamError) and provider.credential.redact(str(error)) != str(error):
        shown = error.upstream_message
        _log.error("%s: %s echoed our credential in an error: %s", call.request_id, provider.name, shown)
        raise authentication_failed()
    return error


def _without_coding(reply: HttpReply) -> HttpReply:
    try:
        return decode_content(reply)
    except HttpError as error:
        raise UpstreamUnavailable("The upstream compressed its answer although it was asked not to.") from error


def _is_of_credential(error: TranslatedUpstreamError | UpstreamErrorResponse) -> bool:
    return error.status == 401 if isinstance(error, UpstreamErrorResponse) else error.credential


def _note_head(provider: Provider, reply: HttpReply, attempt: Attempt) -> Headers:
    """Record the head of a reply. A request id that contains the credential is dropped."""
    fields = reply_fields(reply.headers)
    request_id = request_id_of(fields)
    attempt.head = time.monotonic()
    attempt.status = reply.status
    if request_id and provider.credential.redact(request_id) == request_id:
        attempt.upstream_request_id = request_id
    return fields
