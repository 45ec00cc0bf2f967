"""The conditions of a route: which requests it is for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache

import msgspec

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.options import OptionError, check_integer, check_text, check_texts, check_type, key_text
from bud_asgi.protocol.betas import requested_betas
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.patterns import compile_pattern, matches, matches_any

ANY = ("*",)
"""The patterns that everything matches, also the absence of a name."""

_PATTERNS = 'a list of names or patterns with *, such as ["team-*"]'
FEATURES_EXPECTED = (
    'a list of beta flags and top-level fields, or patterns with *, such as ["context-1m-*", "mcp_servers"]'
)
_HEADERS = 'a mapping of header names to values or patterns with *, such as {"x-tier": "gold-*"}'
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


class Conditions(msgspec.Struct, frozen=True, gc=False):
    """All of them must hold. `headers` are pairs of a lower-case name and a pattern, sizes are in bytes.

    `max_bytes` is `None` where a request may have any size. `features` are names and patterns of beta flags and
    top-level fields, of which the request uses at least one.
    """

    principals: tuple[str, ...] = ANY
    teams: tuple[str, ...] = ANY
    headers: tuple[tuple[bytes, str], ...] = ()
    min_bytes: int = 0
    max_bytes: int | None = None
    features: tuple[str, ...] = ANY

    def unmet(self, principal: Principal | None, exchange: Exchange | None) -> str | None:
        """The option that does not hold, such as `teams` or `headers.x-tier`; `None` if the route is for this request.

        The request must have been read. Without an exchange, no condition on the request holds.
        """
        unmet = self.unmet_by(principal) or self._unmet_headers(exchange) or self._unmet_size(exchange)
        if unmet is None and self.features != ANY and (exchange is None or not _uses(exchange, self.features)):
            return "features"
        return unmet

    def unmet_by(self, principal: Principal | None) -> str | None:
        """The option about the caller that does not hold."""
        if self.principals != ANY and (principal is None or not matches_any(self.principals, principal.id)):
            return "principals"
        team = None if principal is None else principal.team
        if self.teams != ANY and (team is None or not matches_any(self.teams, team)):
            return "teams"
        return None

    def _unmet_headers(self, exchange: Exchange | None) -> str | None:
        for name, pattern in self.headers:
            value = None if exchange is None else exchange.headers.get(name)
            if value is None or not matches(pattern, value.decode("latin-1")):
                return f"headers.{name.decode()}"
        return None

    def _unmet_size(self, exchange: Exchange | None) -> str | None:
        if not self.min_bytes and self.max_bytes is None:
            return None
        size = None if exchange is None else len(exchange.decoded_request.body)
        if self.min_bytes and (size is None or size < self.min_bytes):
            return "min_bytes"
        if self.max_bytes is not None and (size is None or size > self.max_bytes):
            return "max_bytes"
        return None

    @property
    def by_caller(self) -> bool:
        """Whether they depend on the caller."""
        return self.principals != ANY or self.teams != ANY

    @property
    def by_request(self) -> bool:
        """Whether they depend on the request: its features, headers or size."""
        return bool(self.headers or self.min_bytes) or self.max_bytes is not None or self.features != ANY

    def cover(self, other: Conditions) -> bool:
        """Whether these hold for every request for which the others hold."""
        patterns = dict(other.headers)
        return (
            _cover(self.principals, other.principals)
            and _cover(self.teams, other.teams)
            and _cover(self.features, other.features)
            and all(name in patterns and covers(pattern, patterns[name]) for name, pattern in self.headers)
            and self.min_bytes <= other.min_bytes
            and (self.max_bytes is None or (other.max_bytes is not None and other.max_bytes <= self.max_bytes))
        )


UNCONDITIONAL = Conditions()
"""The conditions of a route that is for every request."""


def _uses(exchange: Exchange, features: tuple[str, ...]) -> bool:
    """Whether a request lists a beta flag, or has a top-level field that is not null, of these names or patterns."""
    request = exchange.decoded_request
    with suppress(InvalidRequest):  # an invalid list of flags is judged by the provider
        if _any_matches(features, requested_betas(exchange.headers, request)):
            return True
    return any(matches_any(features, name) and request.has(name) for name in request.spans)


@lru_cache(maxsize=256)
def _any_matches(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(matches_any(patterns, name) for name in names)


def covers(pattern: str, other: str) -> bool:
    """Whether a name or pattern matches every name that the other one matches.

    It does if it matches the other one as a text: only a `*` matches a `*` there.
    """
    return compile_pattern(pattern).matches(other)


def _cover(patterns: Sequence[str], others: Sequence[str]) -> bool:
    return patterns == ANY or all(any(covers(pattern, other) for pattern in patterns) for other in others)


def check_patterns(option: str, value: object, expected: str = _PATTERNS) -> tuple[str, ...]:
    """Check for a list of patterns, and return it as a tuple: `ANY` if one of them is `*`. Raises `OptionError`."""
    patterns = check_texts(option, value, expected)
    if not patterns:
        raise OptionError(option, "an empty list matches nothing, so that the route would never be used")
    return ANY if "*" in patterns else patterns


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Check for a mapping of header names to patterns, and return it with lower-case names. Raises `OptionError`."""
    check_type("headers", headers, Mapping, _HEADERS)
    checked: dict[str, str] = {}
    for name, pattern in headers.items():
        option = f"headers.{key_text(str(name))}"
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(option, "expected the name of a header")
        if name.lower() in _CREDENTIALS:
            raise OptionError(option, "carries a credential; expected another header, or principals or teams")
        if name.lower() in checked:
            raise OptionError(option, "duplicate header: the case of its name does not matter")
        check_text(option, pattern, "a value or a pattern with *")
        checked[name.lower()] = pattern
    return checked


def check_sizes(min_bytes: int | None, max_bytes: int | None) -> None:
    """Check the bounds of a size. Raises `OptionError`."""
    if min_bytes is not None:
        check_integer("min_bytes", min_bytes, "a number of bytes, at least 1")
    if max_bytes is not None:
        check_integer("max_bytes", max_bytes, "a number of bytes, at least 1")
        if min_bytes is not None and max_bytes < min_bytes:
            error = f"expected at least min_bytes ({min_bytes}), got {max_bytes}"
            raise OptionError("max_bytes", error, other="min_bytes")
