"""Where a server is, as configuration says it: a base URL, read once and strictly."""

from __future__ import annotations

import re
import ssl
from urllib.parse import urlsplit

from bud_asgi.http import Origin

_HOST = re.compile(r"[0-9A-Za-z._~%:-]+")
_PATH = re.compile(r"[!-~]*")


def parse_base_url(base_url: str, tls: ssl.SSLContext | None) -> tuple[Origin, str]:
    """The server of a base URL, and its path without a slash at the end.

    `tls` replaces the default context (system authorities, verified). Raises `ValueError`, without showing what may be
    a password.
    """
    try:
        url = urlsplit(base_url)
        port = url.port
    except ValueError:  # its words show what may be a password
        raise ValueError("base_url must be a URL with a valid host and port") from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(f"base_url must be an http or https URL with a host{_shown(base_url)}")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("base_url must have no user, query or fragment; a credential has an option of its own")
    if not _PATH.fullmatch(url.path) or not _HOST.fullmatch(url.hostname) or port == 0 or not base_url.isprintable():
        raise ValueError("base_url must be printable ASCII, its path percent-encoded")
    if url.scheme == "http":
        if tls is not None:
            raise ValueError("tls goes with an https base_url")
        return Origin(url.hostname, port or 80), url.path.rstrip("/")
    return Origin(url.hostname, port or 443, tls or ssl.create_default_context()), url.path.rstrip("/")


def _shown(base_url: str) -> str:
    return "" if "@" in base_url else f", not {base_url[:200]!r}"
