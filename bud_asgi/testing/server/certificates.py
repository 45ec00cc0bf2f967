"""Certificates for the stand-in's TLS: a valid one and several kinds of invalid ones. `trustme` makes them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Literal

import msgspec

TlsKind = Literal["good", "wrong-name", "expired", "unknown-ca"]
"""The certificate: valid, for another host name, expired, or signed by an authority that `ca` does not trust."""


class Certificates(msgspec.Struct, frozen=True, eq=False):
    """The TLS contexts of server and client."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@cache
def certificates(kind: TlsKind, host: str) -> Certificates:
    """Make the certificates, once for each kind. Raises `ImportError` without the extra `testing`."""
    try:
        import trustme  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise ImportError(
            "TLS for the stand-in needs trustme: pip install '.[testing]' in a checkout of bud_asgi"
        ) from error
    authority = trustme.CA()
    signer = trustme.CA() if kind == "unknown-ca" else authority
    name = "elsewhere.example" if kind == "wrong-name" else host
    not_after = datetime.now(UTC) - timedelta(days=1) if kind == "expired" else None
    leaf = signer.issue_cert(name, not_after=not_after)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(server)  # pyright: ignore[reportUnknownMemberType] (pyOpenSSL is not installed)
    client = ssl.create_default_context()
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType] (the same)
    return Certificates(server, client)
