"""The one sender: puts the credential on, sends, asks once more with a fresh credential, maps the failure."""

from __future__ import annotations

from bud_asgi.http import HttpClient, HttpError, HttpReply
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.messages import MessagesRequest
from bud_asgi.providers.failures import failure_of
from bud_asgi.providers.seam import Provider


async def send(
    client: HttpClient, provider: Provider, request: MessagesRequest, headers: Headers, model: str | None
) -> HttpReply:
    """Send a judged request to a provider; return its reply in the Anthropic format, whatever its status.

    Raises `UpstreamFailed`, `InvalidRequest`. Cancelled, the call is aborted at once. The reply is the caller's to
    close.
    """
    written = provider.write(request, headers, model)
    try:
        reply = await client.send(await provider.credential.apply(written, headers))
        if reply.status == 401 and await provider.credential.refresh():
            reply.close()
            reply = await client.send(await provider.credential.apply(written, headers))
    except HttpError as error:
        raise failure_of(error) from error
    return provider.read(reply)
