"""The keys of an issuer: discovered, cached, refreshed once for all callers, and kept through an outage."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bud_asgi.auth.jwt.documents import check_document_url, fetch_document
from bud_asgi.auth.jwt.issuer import Issuer
from bud_asgi.http import HttpClient
from bud_asgi.options import OptionError, check_clock, check_seconds, url_shown
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.providers import UpstreamUnavailable
from bud_asgi.providers.refresher import Expiring, FetchFailed, Refresher, RefreshTiming

if TYPE_CHECKING:
    from joserfc.jwk import Key

    from bud_asgi.auth.jwt.signatures import SigningKeys


class IssuerUnavailable(GatewayError):
    """The keys of a token's issuer could not be fetched, so that the token cannot be verified."""

    status = 503

    def __init__(self) -> None:
        super().__init__("The keys of the token's issuer are not available", headers={"retry-after": "5"})


class JwksTiming(msgspec.Struct, frozen=True, kw_only=True):
    """When the keys of an issuer are fetched, in seconds, and the clocks that are read.

    `refresh_after`: the age at which they are fetched again, in the background. `keep_for`: how old they may become
    while the issuer cannot be reached. `unknown_key_interval`: how long, after a fetch for a token whose key is
    unknown, no further one is made for such tokens. `timeout`: how long a fetch may take. `clock` returns seconds since
    the epoch, `monotonic` measures intervals. Raises `OptionError`.
    """

    refresh_after: float = 600.0
    keep_for: float = 86400.0
    unknown_key_interval: float = 30.0
    timeout: float = 5.0
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("refresh_after", "keep_for", "unknown_key_interval", "timeout"):
            check_seconds(name, getattr(self, name), maximum=1e9)
        if self.refresh_after > self.keep_for:
            raise OptionError("refresh_after", "must not be longer than keep_for", other="keep_for")
        check_clock("clock", self.clock)
        check_clock("monotonic", self.monotonic)


class IssuerKeys:
    """The keys of one issuer, for any number of event loops. `client` makes the HTTP client of a fetch."""

    def __init__(
        self,
        issuer: Issuer,
        read: Callable[[Mapping[str, Any]], SigningKeys],
        client: Callable[[], HttpClient],
        tls: ssl.SSLContext,
        timing: JwksTiming,
    ) -> None:
        self._issuer = issuer
        self._read = read
        self._client = client
        self._tls = tls
        self._timing = timing
        refresh_timing = RefreshTiming(
            timeout=timing.timeout,
            unchanged_interval=timing.unknown_key_interval,
            clock=timing.clock,
            monotonic=timing.monotonic,
        )
        self._refresher = Refresher(self._fetch, str, f"the keys of {url_shown(issuer.url)}", refresh_timing)

    def current(self) -> SigningKeys | None:
        """The keys, `None` before the first fetch and after an outage of `keep_for`. Starts a refresh that is due."""
        return self._refresher.current()

    @property
    def unavailable(self) -> bool:
        """Whether there are no usable keys and the last fetch failed. Starts nothing."""
        status = self._refresher.status()
        return status.failing and not status.usable

    async def find(self, header: Mapping[str, Any]) -> tuple[SigningKeys, Key | None]:
        """The key for the header of a token, and the keys that it is one of.

        Waits for the first fetch, and for one that a token with an unknown key causes. Raises `IssuerUnavailable`.
        """
        keys = self.current() or await self._value()
        key = keys.find(header)
        if key is None and await self._refresher.replace(lambda held: held.find(header) is None):
            keys = await self._value()
            key = keys.find(header)
        return keys, key

    async def _value(self) -> SigningKeys:
        try:
            return await self._refresher.value()
        except UpstreamUnavailable as error:
            raise IssuerUnavailable from error

    async def _fetch(self) -> Expiring[SigningKeys]:
        client = self._client()
        try:
            url = self._issuer.jwks_url or await self._discover(client)
            keys = self._read(await fetch_document(client, url, self._tls))
        finally:
            await client.aclose()
        now = self._timing.clock()
        return Expiring(keys, now + self._timing.keep_for, now + self._timing.refresh_after)

    async def _discover(self, client: HttpClient) -> str:
        """The `jwks_uri` of the issuer, which has to name itself (OpenID Connect Discovery 1.0, 4.3)."""
        url = f"{self._issuer.url.rstrip('/')}/.well-known/openid-configuration"
        found = await fetch_document(client, url, self._tls)
        if found.get("issuer") != self._issuer.url:
            raise FetchFailed(f"{url_shown(url)}: its issuer is another one")
        try:
            check_document_url("jwks_uri", found.get("jwks_uri"))
        except OptionError as error:
            raise FetchFailed(f"{url_shown(url)}: {error}") from None
        return found["jwks_uri"]
