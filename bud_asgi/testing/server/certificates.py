"""Certificates for the stand-in's TLS: good ones, and each kind of bad one. Made by `trustme`, kept nowhere."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Literal

import msgspec

TlsKind = Literal["good", "wrong-name", "expired", "unknown-ca"]
"""What is wrong with the certificate: nothing, the host's name, its end in the past, an authority unknown to `ca`."""


class Certificates(msgspec.Struct, frozen=True, eq=False):
    """Both ends of the stand-in's TLS."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@cache
def certificates(kind: TlsKind, host: str) -> Certificates:
    """Make them; once for each kind, as keys cost time. Raises `ImportError` without the extra `testing`."""
    try:
        import trustme  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise ImportError("TLS for the stand-in needs trustme: pip install 'bud-asgi[testing]'") from error
    authority = trustme.CA()
    signer = trustme.CA() if kind == "unknown-ca" else authority
    name = "elsewhere.example" if kind == "wrong-name" else host
    end = datetime.now(UTC) - timedelta(days=1) if kind == "expired" else None
    leaf = signer.issue_cert(name, not_after=end)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(server)  # pyright: ignore[reportUnknownMemberType] (pyOpenSSL is not here)
    client = ssl.create_default_context()
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType] (the same)
    return Certificates(server, client)
