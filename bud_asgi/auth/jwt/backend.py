"""`Jwt`: authenticates callers by the tokens of issuers."""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from starlette.authentication import AuthenticationError

from bud_asgi.auth.chain import CredentialBackend, Pending
from bud_asgi.auth.credentials import Authenticated, authenticated
from bud_asgi.auth.jwt.issuer import ClaimError, Issuer
from bud_asgi.auth.jwt.keys import IssuerKeys, JwksTiming
from bud_asgi.auth.jwt.tokens import MAX_TOKEN, Token, check_header, parse_token
from bud_asgi.exchange import Principal
from bud_asgi.extras import require
from bud_asgi.host_code import host_code_error
from bud_asgi.http import Engine, HttpClient, check_client
from bud_asgi.options import OptionError, check_items, check_type, duplicates, url_shown
from bud_asgi.printable import one_line

if TYPE_CHECKING:
    from bud_asgi.auth.jwt.signatures import SigningKeys, Verifier

MAX_VERIFIED = 10_000
"""Verified tokens that are remembered."""

MAX_VERIFIED_SIZE = 1 << 24
"""Bytes that verified tokens may take in memory, by the length of the tokens."""

_OVERHEAD = 1000  # bytes of an entry beside what comes from the token
_BRACE = b"e"  # what a brace begins with in base64

_log = logging.getLogger("bud_asgi")


class VerifiedToken(msgspec.Struct, frozen=True, gc=False):
    """A token that has been verified with `keys`, the current ones of an issuer at that time."""

    caller: Authenticated
    expires_at: float
    source: IssuerKeys
    keys: SigningKeys
    size: int

    def is_current(self, now: float) -> bool:
        """Whether it is valid at `now`, in seconds since the epoch, and its issuer has the same keys."""
        return now < self.expires_at and self.source.current() is self.keys


class VerifiedTokens:
    """Verified tokens by their digest. Bounded: the oldest ones are forgotten first."""

    def __init__(self, max_entries: int = MAX_VERIFIED, max_size: int = MAX_VERIFIED_SIZE) -> None:
        self._max_entries = max_entries
        self._max_size = max_size
        self._entries: dict[bytes, VerifiedToken] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, digest: bytes) -> VerifiedToken | None:
        """What is remembered of a token: it may have to be verified again."""
        return self._entries.get(digest)

    def add(self, digest: bytes, entry: VerifiedToken) -> None:
        """Remember a token, in place of the oldest ones if there is no room."""
        self._remove(digest)
        self._entries[digest] = entry
        self.size += entry.size
        while len(self._entries) > self._max_entries or self.size > self._max_size:
            self._remove(next(iter(self._entries)))

    def add_all(self, others: VerifiedTokens, sources: Collection[IssuerKeys]) -> None:
        """Remember the tokens of others that were verified with keys of these sources."""
        for digest, entry in list(others._entries.items()):
            if entry.source in sources:
                self.add(digest, entry)

    def _remove(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self.size -= entry.size


class _Accepted(msgspec.Struct, frozen=True):
    """An issuer, its keys, and the verification of its tokens."""

    issuer: Issuer
    keys: IssuerKeys
    verifier: Verifier


class Jwt(CredentialBackend):
    """Authenticates by signed tokens (JWT) of one or more issuers, sent as a bearer token or as `x-api-key`.

    A token belongs to the issuer whose `url` is its `iss`; one of any other issuer is left to the next backend of
    `auth=[...]`. It is verified once, and remembered until it expires or its issuer's keys change. Keys are fetched on
    first use; while they cannot be, and none are held, requests get a 503. `tls` replaces the default context of the
    fetches (system authorities, verified), `client` makes their HTTP client, `timing` says when they are made. Raises
    `OptionError`, and `MissingExtra` without joserfc (the extra `jwt`).
    """

    required = "Authorization header with a bearer token is required"

    def __init__(
        self,
        issuers: Issuer | Sequence[Issuer],
        *,
        client: Callable[[], HttpClient] = Engine,
        tls: ssl.SSLContext | None = None,
        timing: JwksTiming | None = None,
    ) -> None:
        given = check_issuers("issuers", [issuers] if isinstance(issuers, Issuer) else issuers)
        check_client("client", client)
        if tls is not None:
            check_type("tls", tls, ssl.SSLContext, "an ssl.SSLContext")
        if timing is not None:
            check_type("timing", timing, JwksTiming, "a JwksTiming")
        require("Jwt", "joserfc", "jwt")
        from bud_asgi.auth.jwt import signatures  # noqa: PLC0415 - the extra is needed by nothing else

        timing = timing or JwksTiming()
        self._fetched_by = client, tls, timing
        tls = tls or ssl.create_default_context()
        self._clock = timing.clock
        self._issuers = {
            issuer.url: _Accepted(
                issuer,
                IssuerKeys(issuer, signatures.SigningKeys, client, tls, timing),
                signatures.Verifier(issuer, timing.clock),
            )
            for issuer in given
        }
        self._verified = VerifiedTokens()

    def check(self, credential: bytes) -> Authenticated | Pending | None:
        """The caller of a token that is remembered. Others are verified when the result is awaited.

        `None` for what is not a token of one of the issuers.
        """
        if credential[:1] != _BRACE or len(credential) > MAX_TOKEN:
            return None
        digest = hashlib.sha256(credential).digest()
        verified = self._verified.find(digest)
        if verified is not None and verified.is_current(self._clock()):
            return verified.caller
        token = parse_token(credential)
        accepted = None if token is None else self._issuers.get(token.issuer)
        if token is None or accepted is None:
            return None
        return Pending(partial(self._verify, token, digest, accepted), is_known=verified is not None)

    def unavailable_issuers(self) -> Sequence[str]:
        """The URLs of the issuers whose tokens cannot be verified: no keys are held, and the last fetch failed."""
        return [url_shown(url) for url, accepted in self._issuers.items() if accepted.keys.unavailable]

    def continue_from(self, former: Jwt) -> None:
        """Take over the keys of unchanged issuers, and the tokens that were verified with them."""
        if former._fetched_by != self._fetched_by:
            return
        for url, accepted in former._issuers.items():
            ours = self._issuers.get(url)
            if ours is not None and ours.issuer == accepted.issuer:
                self._issuers[url] = accepted
        self._verified.add_all(former._verified, {accepted.keys for accepted in self._issuers.values()})

    async def _verify(self, token: Token, digest: bytes, accepted: _Accepted) -> Authenticated:
        """Verify a token of one of the issuers, and remember it. Raises `AuthenticationError`."""
        issuer = accepted.issuer
        check_header(token.header, issuer)
        keys, key = await accepted.keys.find(token.header)
        if key is None:
            raise AuthenticationError
        accepted.verifier.verify(token, key)
        caller = authenticated(_caller(issuer, token))
        expires_at = token.claims["exp"] + issuer.leeway
        size = sum(map(len, token.parts)) + _OVERHEAD
        self._verified.add(digest, VerifiedToken(caller, expires_at, accepted.keys, keys, size))
        return caller


def _caller(issuer: Issuer, token: Token) -> Principal:
    name = url_shown(issuer.url)
    try:
        principal = issuer.caller(token.claims)
    except ClaimError as error:
        _log.info("%s: a valid token was refused: %s", name, one_line(str(error)))
        raise AuthenticationError("The bearer token does not have the required claims") from error
    except OptionError as error:
        raise host_code_error(name, str(error), "The authentication of this gateway is misconfigured.") from error
    if principal is None:
        raise AuthenticationError
    return principal


def check_issuers(option: str, issuers: Sequence[Issuer]) -> tuple[Issuer, ...]:
    """Check for a list of issuers, each with a URL and a prefix of its own. Raises `OptionError`."""
    given = check_items(option, issuers, "an Issuer or a list of them", _check_issuer)
    if not given:
        raise OptionError(option, "an empty list; expected at least one Issuer")
    for field in ("url", "prefix"):
        for index, first in duplicates(getattr(issuer, field) for issuer in given):
            raise OptionError(f"{option}[{index}].{field}", f"duplicate {field}, already used by {option}[{first}]")
    return given


def _check_issuer(option: str, issuer: object) -> None:
    check_type(option, issuer, Issuer, "an Issuer")
