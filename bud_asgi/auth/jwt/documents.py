"""The JSON documents that an issuer publishes: fetched within bounds, from https URLs, without redirects."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit

from bud_asgi.http import HttpClient, HttpError, HttpRequest, Origin, Timeouts, decode_content, read_body
from bud_asgi.options import OptionError, check_text, url_shown
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.providers.options import parse_base_url
from bud_asgi.providers.refresher import FetchFailed

MAX_DOCUMENT = 1 << 18
"""Bytes of the largest document."""

_HEADERS = ((b"accept", b"application/json"), (b"user-agent", b"bud-asgi"))
_TIMEOUTS = Timeouts(connect=5.0, first_byte=5.0, silence=5.0)


def check_document_url(option: str, url: object) -> None:
    """Check for a URL that may be fetched: https, or http on this machine. Raises `OptionError`."""
    _parse(option, url, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # an empty context costs nothing, and never connects


async def fetch_document(client: HttpClient, url: str, tls: ssl.SSLContext) -> Mapping[str, Any]:
    """Fetch a JSON object. Raises `FetchFailed` for whatever goes wrong, a redirect included."""
    try:
        origin, target = _parse("url", url, tls)
        reply = await client.send(HttpRequest(origin, b"GET", target, _HEADERS, b"", _TIMEOUTS))
        try:
            body, is_complete = await read_body(decode_content(reply), MAX_DOCUMENT)
        finally:
            reply.close()
    except (HttpError, GatewayError, OptionError, ValueError) as error:
        raise FetchFailed(f"{url_shown(url)}: {error}") from error
    if reply.status != 200:
        raise FetchFailed(f"{url_shown(url)}: status {reply.status}")
    if not is_complete:
        raise FetchFailed(f"{url_shown(url)}: more than {MAX_DOCUMENT} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FetchFailed(f"{url_shown(url)}: not a JSON object")
    return cast("Mapping[str, Any]", document)


def _parse(option: str, url: object, tls: ssl.SSLContext) -> tuple[Origin, bytes]:
    """The server and the target of a URL."""
    check_text(option, url, "an https URL")
    text = cast("str", url)
    is_https = text.lower().startswith("https:")
    origin, _ = parse_base_url(text.partition("?")[0], tls if is_https else None, option)
    if not is_https and not _is_loopback(origin.host):
        raise OptionError(option, "must be an https URL: http is for this machine only")
    parts = urlsplit(text)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    if parts.fragment or not target.isascii() or not target.isprintable() or " " in target:
        raise OptionError(option, "must be printable ASCII, without spaces and without a fragment")
    return origin, target.encode()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
