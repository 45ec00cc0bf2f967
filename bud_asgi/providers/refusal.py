"""An upstream's own error: read, judged, and either passed on as it came or put into the words of the Messages API."""

from __future__ import annotations

import logging

import msgspec

from bud_asgi.http import HttpReply, read_body
from bud_asgi.protocol.errors import NotFound, read_error
from bud_asgi.protocol.headers import Headers, relayed_headers
from bud_asgi.providers.failures import TranslatedUpstreamError, UpstreamUnavailable
from bud_asgi.providers.seam import Provider, ProviderRequest

_MAX_ERROR_BODY = 1 << 20

_log = logging.getLogger("bud_asgi")


class UpstreamErrorResponse(msgspec.Struct, frozen=True):
    """An upstream's own error, to be passed on as it came; `headers` say when to try again."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


async def read_refusal(
    provider: Provider, call: ProviderRequest, reply: HttpReply, fields: Headers
) -> UpstreamErrorResponse:
    """Read the body of a reply that is not a 200.

    Raises `TranslatedUpstreamError` for what the provider has translated, and for any other 401 on the gateway's own
    credential; `UpstreamUnavailable` for what is no error object, `NotFound` for an upstream that does not count
    tokens, `HttpError`.
    """
    if reply.status < 400:
        raise UpstreamUnavailable(f"The upstream answered {reply.status} where a Message was expected.")
    check_encoding(fields)
    body, whole = await read_body(reply, _MAX_ERROR_BODY)
    if whole and (refused := provider.translate_error(call, reply.status, fields, body)) is not None:
        raise refused
    if whole and read_error(body) is not None:
        return UpstreamErrorResponse(reply.status, body, relayed_headers(fields, error=True))
    if reply.status == 401 and provider.credential.is_operators:
        told = f"401 {body[:500].decode('utf-8', 'replace')}"
        raise TranslatedUpstreamError(
            "upstream authentication failed", status=502, type_="api_error", told=told, credential=True, retryable=False
        )
    if reply.status == 404 and call.request.counting:
        raise NotFound("The upstream of this model does not count tokens.")
    raise UpstreamUnavailable(f"The upstream answered {reply.status} without an error object.")


def check_encoding(fields: Headers) -> None:
    """Raise `UpstreamUnavailable` for a reply that is compressed."""
    encoding = fields.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"", b"identity"}:
        raise UpstreamUnavailable("The upstream compressed its answer although it was asked not to.")


def judge_refusal(provider: Provider, request_id: str, refusal: UpstreamErrorResponse) -> None:
    """Keep to ourselves what the upstream says of the gateway's own credential: the client can't mend that.

    Some servers put the credential itself into what they say, with whatever status. Raises `UpstreamUnavailable`.
    """
    if not provider.credential.is_operators:
        return
    said = read_error(refusal.body)
    text = refusal.body.decode("utf-8", "replace")
    redacted = provider.credential.redact(text)
    ours = refusal.status == 401 or (refusal.status == 403 and said is not None and not said.has_code)
    if ours or redacted != text:
        _log.error("%s: %s refused our credential: %.500r", request_id, provider.name, redacted)
        raise UpstreamUnavailable("upstream authentication failed", retryable=False)
