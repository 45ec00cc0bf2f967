"""The upstreams: a prompt cache, times to answer, a rate limit, and the faults of a scenario."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil, inf
from random import Random

import msgspec

from benchmarks.simulation.clients import APPLICATION_TOKENS, Turn
from benchmarks.simulation.clock import VirtualTime
from benchmarks.simulation.scenarios import ErrorKind, Fault
from bud_asgi.http import HttpError
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers import UpstreamErrorResponse, authentication_failed, unavailable

CACHE_SECONDS = 300.0
"""How long a prefix stays in the cache after it was last read."""
LOOKBACK = 10
"""How many turns back a cached prefix is found: the service looks at 20 blocks before a breakpoint, two to a turn."""
TOKENS_PER_SECOND = 70.0
PREFILL = 20_000.0
"""Tokens a second that are read without the cache."""
OVERHEAD = 0.5
"""Seconds to the first event without any tokens to read."""

READ_PRICE, WRITE_PRICE, OUTPUT_PRICE = 0.1, 1.25, 5.0
"""Prices of cached, cache-written and output tokens, in input tokens: the ratios of Anthropic's price list."""

_ERROR_SECONDS: Mapping[ErrorKind, float] = {
    "connect": 0.05,
    "server_error": 0.3,
    "reset": 3.0,
    "overloaded": 0.1,
    "credential": 0.1,
}


class PromptCache:
    """The prefixes that an account has in its cache: of applications and of conversations."""

    def __init__(self) -> None:
        self._applications: dict[int, float] = {}  # until when
        self._conversations: dict[int, tuple[Turn, float]] = {}  # the latest turn, and until when

    def read(self, turn: Turn, now: float) -> int:
        """How many tokens of a prompt are read from the cache; all of it is in the cache afterwards."""
        former, until = self._conversations.get(turn.conversation, (turn, -inf))
        if now < until and turn.number - former.number <= LOOKBACK:
            cached = former.tokens
        else:
            cached = APPLICATION_TOKENS if now < self._applications.get(turn.application, -inf) else 0
        self._applications[turn.application] = now + CACHE_SECONDS
        self._conversations[turn.conversation] = (turn, now + CACHE_SECONDS)
        return cached

    def clear(self) -> None:
        """Forget everything."""
        self._applications.clear()
        self._conversations.clear()


def first_event_seconds(turn: Turn, cached: int) -> float:
    """The time to the first event of a target that has nothing else to do."""
    return OVERHEAD + turn.jitter + (turn.tokens - cached) / PREFILL


def input_price(turn: Turn, cached: int) -> float:
    """What the prompt costs, in input tokens."""
    return cached * READ_PRICE + (turn.tokens - cached) * WRITE_PRICE


def output_price(turn: Turn) -> float:
    """What the reply costs, in input tokens."""
    return turn.reply * TOKENS_PER_SECOND * OUTPUT_PRICE


class Reply(msgspec.Struct, frozen=True):
    """A reply that has begun: its headers, how many tokens of the prompt were cached, how long it goes on."""

    headers: Headers
    cached: int
    seconds: float


class Upstream:
    """A target. `billed` is what all its requests have cost, in input tokens."""

    def __init__(self, time: VirtualTime, faults: Sequence[Fault], random: Random) -> None:
        self._time = time
        self._faults = faults
        self._random = random
        self._cache = PromptCache()
        self._limit = _RateLimit()
        self._cleared = -inf
        self._in_flight = 0
        self.billed = 0.0

    def send(self, turn: Turn) -> Generator[float, None, Reply]:
        """Wait for the first event of a reply; `stream` must follow. Raises the `GatewayError` of a failed attempt."""
        now, fault = self._time.now, self._fault()
        if error := self._error(fault):
            if error == "reset":
                self.billed += input_price(turn, self._cache.read(turn, now))
            yield _ERROR_SECONDS[error] * fault.slowdown
            raise _gateway_error(error)
        headers: Headers = {}
        if fault.requests_per_minute is not None:
            if wait := self._limit.take(now, fault.requests_per_minute):
                yield _ERROR_SECONDS["overloaded"]
                raise UpstreamErrorResponse(429, b"{}", [(b"retry-after", b"%d" % wait)])
            headers = self._limit.headers(now, fault.requests_per_minute)
        cached = self._cache.read(turn, now)
        self.billed += input_price(turn, cached) + output_price(turn)
        self._in_flight += 1
        slowdown = fault.slowdown * max(1.0, self._in_flight / fault.capacity)
        yield first_event_seconds(turn, cached) * slowdown
        return Reply(headers, cached, turn.reply * slowdown)

    def stream(self, reply: Reply) -> Generator[float, None, None]:
        """Wait for the end of a reply. Raises the `GatewayError` of one that breaks off."""
        begun = self._time.now
        breaks = [fault.since - begun for fault in self._faults if fault.breaks_streams and fault.since >= begun]
        left = min(breaks, default=inf)
        yield min(reply.seconds, left)
        self._in_flight -= 1
        if left < reply.seconds:
            raise _gateway_error("reset")

    def _fault(self) -> Fault:
        now = self._time.now
        for fault in self._faults:
            if fault.clears_cache and self._cleared < fault.until <= now:
                self._cleared = fault.until
                self._cache.clear()
        return next((fault for fault in self._faults if fault.covers(now)), _NO_FAULT)

    def _error(self, fault: Fault) -> ErrorKind | None:
        drawn = self._random.random()
        for kind, share in fault.errors.items():
            if drawn < share:
                return kind
            drawn -= share
        return "overloaded" if self._in_flight >= 2 * fault.capacity else None


class _RateLimit:
    """A token bucket of requests a minute, as Anthropic's rate limits are, with the service's headers."""

    def __init__(self) -> None:
        self._left = inf
        self._since = 0.0

    def take(self, now: float, limit: float) -> int:
        """Take a request; if there is none left, the seconds until there is."""
        self._left = min(limit, self._left + (now - self._since) * limit / 60.0)
        self._since = now
        if self._left < 1.0:
            return ceil((1.0 - self._left) * 60.0 / limit)
        self._left -= 1.0
        return 0

    def headers(self, now: float, limit: float) -> Headers:
        """The state of the limit; `reset` is when all of it will be there again."""
        reset = datetime.fromtimestamp(now + (limit - self._left) * 60.0 / limit, UTC)
        return {
            b"anthropic-ratelimit-requests-limit": b"%d" % limit,
            b"anthropic-ratelimit-requests-remaining": b"%d" % self._left,
            b"anthropic-ratelimit-requests-reset": reset.strftime("%Y-%m-%dT%H:%M:%SZ").encode(),
        }


_NO_FAULT = Fault(since=-inf, until=inf)


def _gateway_error(kind: ErrorKind) -> GatewayError:
    match kind:
        case "connect":
            return unavailable(HttpError("connect", "refused"))
        case "reset":
            return unavailable(HttpError("reset", "reset", sent=True))
        case "server_error":
            return UpstreamErrorResponse(500, b"{}", [])
        case "overloaded":
            return UpstreamErrorResponse(529, b"{}", [])
        case "credential":
            return authentication_failed()
