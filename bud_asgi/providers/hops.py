"""The id of a gateway, and the header that carries it to upstreams that may lead back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files

import msgspec

from bud_asgi.http import HeaderBlock, HttpRequest, header_block
from bud_asgi.protocol.hops import HOPS, ID_LENGTH
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.providers.seam import Provider


class _VendorHosts(msgspec.Struct, frozen=True):
    as_of: str
    hosts: tuple[str, ...]


@cache
def _vendor_hosts() -> tuple[str, ...]:
    content = (files("bud_asgi") / "data" / "vendor_hosts.json").read_bytes()
    return msgspec.json.decode(content, type=_VendorHosts).hosts


def gateway_id(providers: Iterable[Provider]) -> bytes:
    """The id of a gateway with these providers, in 16 hexadecimal digits: a digest of their names, kinds and addresses.

    All workers and replicas of one configuration have the same. A provider without a `base_url` makes it the id of this
    process: nothing else is known about where its requests go.
    """
    lines = sorted(
        f"{provider.name}\n{type(provider).__name__}\n{getattr(provider, 'base_url', None) or os.urandom(16).hex()}"
        for provider in providers
    )
    return hashlib.sha256("\n\n".join(lines).encode()).hexdigest()[:ID_LENGTH].encode()


def with_hops(request: HttpRequest, hops: bytes) -> HttpRequest:
    """Add the header with the ids of the gateways, unless the request goes to a vendor, where no gateway can be."""
    header = _header(request.origin.host, hops)
    return request if header is None else request.with_headers(header)


@lru_cache(maxsize=256)
def _header(host: str, hops: bytes) -> HeaderBlock | None:
    return None if not hops or is_vendor_host(host) else header_block(((HOPS, hops),))


@lru_cache(maxsize=1024)
def is_vendor_host(host: str) -> bool:
    """Whether a host name is one of Anthropic's, AWS's or Google's own for models."""
    return matches_any(_vendor_hosts(), host.lower().rstrip("."))
