"""The one sender: puts the credential on, sends, asks once more with a fresh credential, maps the failure."""

from __future__ import annotations

import logging
import time

from bud_asgi.exchange import Attempt
from bud_asgi.http import HttpClient, HttpError, HttpReply
from bud_asgi.protocol.headers import fields_of, request_id_of
from bud_asgi.providers.failures import TranslatedUpstreamError, UpstreamUnavailable, failure_of
from bud_asgi.providers.refusal import UpstreamErrorResponse, check_encoding, judge_refusal, read_refusal
from bud_asgi.providers.seam import Provider, ProviderRequest

_log = logging.getLogger("bud_asgi")


async def send(
    client: HttpClient, provider: Provider, call: ProviderRequest, attempt: Attempt
) -> HttpReply | UpstreamErrorResponse:
    """Send a call to a provider; return its reply of status 200 in the Anthropic format, or its own error.

    Notes in the attempt what was left out and what came. Raises `UpstreamUnavailable`, `TranslatedUpstreamError`,
    `InvalidRequest`, `NotFound`. Cancelled, the call is aborted at once. The reply is the caller's to close.
    """
    written = provider.encode(call)
    attempt.dropped = written.dropped
    try:
        sent = await provider.credential.apply(written.request, call.headers)
        reply = await client.send(sent)
        if reply.status == 200:
            return _accept(provider, call, reply, attempt)
        refusal = await _refused(provider, call, reply, attempt)
        if _of_credential(refusal) and await provider.credential.refresh(sent):
            reply = await client.send(await provider.credential.apply(written.request, call.headers))
            if reply.status == 200:
                return _accept(provider, call, reply, attempt)
            refusal = await _refused(provider, call, reply, attempt)
    except HttpError as error:
        raise failure_of(error) from error
    if isinstance(refusal, UpstreamErrorResponse):
        judge_refusal(provider, call.request_id, refusal)
        return refusal
    if refusal.credential:
        _log.error("%s: %s refused our credential: %.500r", call.request_id, provider.name, refusal.told)
    raise refusal


def _accept(provider: Provider, call: ProviderRequest, reply: HttpReply, attempt: Attempt) -> HttpReply:
    fields = fields_of(reply.headers)
    _note(attempt, reply.status, request_id_of(fields))
    try:
        check_encoding(fields)
        return provider.decode(call, reply)
    except BaseException:
        reply.close()
        raise


async def _refused(
    provider: Provider, call: ProviderRequest, reply: HttpReply, attempt: Attempt
) -> UpstreamErrorResponse | TranslatedUpstreamError:
    try:
        fields = fields_of(reply.headers)
        _note(attempt, reply.status, request_id_of(fields))
        return await read_refusal(provider, call, reply, fields)
    except TranslatedUpstreamError as refused:
        redact = provider.credential.redact
        refused.told = " ".join(redact(refused.told).split())[:1000]  # a line of the log, whatever it holds
        if redact(str(refused)) != str(refused):  # whatever it means, no client may read this, nor the log
            _log.error("%s: %s told our credential: %.500r", call.request_id, provider.name, refused.told)
            raise UpstreamUnavailable("upstream authentication failed", retryable=False) from None
        return refused
    finally:
        reply.close()


def _of_credential(refusal: UpstreamErrorResponse | TranslatedUpstreamError) -> bool:
    return refusal.status == 401 if isinstance(refusal, UpstreamErrorResponse) else refusal.credential


def _note(attempt: Attempt, status: int, request_id: bytes) -> None:
    attempt.head = time.monotonic()
    attempt.status = status
    attempt.upstream_request_id = request_id.decode("latin-1") or None
