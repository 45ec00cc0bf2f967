"""Counts requests and attempts for Prometheus. No label has a value that a client has sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from bud_asgi.attempt import Attempt, AttemptEnd, Target
from bud_asgi.exchange import Exchange
from bud_asgi.limit import Limit, limit_words
from bud_asgi.observer import Observer
from bud_asgi.protocol.errors import Outcome, known_type
from bud_asgi.protocol.operations import Operation
from bud_asgi.protocol.usage import Usage
from bud_asgi.telemetry.prometheus.metrics import (
    ADDED,
    ATTEMPTS,
    DURATION,
    ERRORS,
    FIRST_EVENT,
    LONGEST_GAP,
    LOOP_LAG,
    NONE,
    OTHER,
    REFUSALS,
    REQUESTS,
    TOKENS,
)
from bud_asgi.telemetry.prometheus.series import Counter, Histogram, Names, Series

STATUSES = frozenset(
    {200, 400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 422, 424, 429, 431, 499, 500, 501, 502, 503, 504, 508, 529}
)
"""The statuses that have a label of their own; any other has the one of its class, such as `4xx`."""

KINDS = ("input", "output", "cache_read", "cache_creation", "thinking")

_MAX_REMEMBERED = 4096

_RequestKey = tuple[Operation | None, Outcome | None, int | None, object, str | None, str | None, bool]
_AttemptKey = tuple[str, str | None, AttemptEnd | None, bool]


Key = TypeVar("Key")
Found = TypeVar("Found")


class _Request:
    """What counts the requests of one kind. Series that few kinds have are made with their first value."""

    __slots__ = ("added", "duration", "gap", "labels", "requests", "tokens")

    def __init__(self, labels: tuple[str, str, str], requests: Counter, duration: Histogram) -> None:
        self.labels = labels  # operation, route, target
        self.requests = requests
        self.duration = duration
        self.added: Histogram | None = None
        self.gap: Histogram | None = None
        self.tokens: Sequence[Counter] = ()


class _Attempt:
    """What counts the attempts of one kind."""

    __slots__ = ("attempts", "first_event", "labels")

    def __init__(self, labels: tuple[str, str], attempts: Counter) -> None:
        self.labels = labels  # target, stream
        self.attempts = attempts
        self.first_event: Histogram | None = None


class RequestCounts(Observer):
    """Counts into `series`. `targets` are the names of targets.

    The counters of requests that have the same labels are found once and remembered. What is remembered is bounded, and
    so are the labels: where a router function or a host's code computes names from what clients send, only the first
    of them get series of their own.
    """

    def __init__(self, series: Series, targets: Names) -> None:
        self._series = series
        self._routes, self._targets, self._limits = Names(), targets, Names()
        self._by_request: dict[_RequestKey, _Request] = {}
        self._by_attempt: dict[_AttemptKey, _Attempt] = {}
        self._lag = series.histogram(LOOP_LAG)

    def attempt_ended(self, exchange: Exchange, attempt: Attempt) -> None:
        """Count an attempt."""
        target, request = attempt.target, exchange.read_request
        key = target.provider, target.model, attempt.end, request is not None and request.stream
        found = self._by_attempt.get(key) or self._add_attempt(key, target)
        found.attempts.value += 1
        if attempt.first_event is not None and not exchange.counting:
            if found.first_event is None:
                found.first_event = self._series.histogram(FIRST_EVENT, found.labels)
            found.first_event.observe(attempt.first_event - attempt.started)

    def settled(self, exchange: Exchange) -> None:
        """Count a request."""
        route, attempts, request = exchange.route, exchange.attempts, exchange.read_request
        target = attempts[-1].target if attempts else None
        key = (
            exchange.operation,
            exchange.outcome,
            exchange.status,
            None if route is None else getattr(route, "pattern", None) or route.model,
            None if target is None else target.provider,
            None if target is None else target.model,
            request is not None and request.stream,
        )
        found = self._by_request.get(key) or self._add_request(key, target)
        found.requests.value += 1
        if exchange.ended is not None:
            found.duration.observe(exchange.ended - exchange.started)
        if (added := exchange.added) is not None:
            if found.added is None:
                found.added = self._series.histogram(ADDED, found.labels[:1])
            found.added.observe(added)
        if exchange.writes > 1:
            if found.gap is None:
                found.gap = self._series.histogram(LONGEST_GAP, found.labels[2:])
            found.gap.observe(exchange.longest_gap)
        if exchange.usage is not None:
            self._add_tokens(found, exchange.usage)
        if exchange.error_type is not None:
            self._add_error(exchange.operation, exchange.error_type)
        if exchange.refused_by is not None:
            self._add_refusal(exchange.refused_by, "enforce")
        for limit in exchange.over_limits:
            self._add_refusal(limit, "observe")

    def loop_ticked(self, lag: float) -> None:
        """Count how late a timer was."""
        self._lag.observe(lag)

    def _add_attempt(self, key: _AttemptKey, target: Target) -> _Attempt:
        _, _, end, streams = key
        label = self._targets.label(target.name)
        found = _Attempt((label, _flag(streams)), self._series.counter(ATTEMPTS, (label, end or NONE)))
        _remember(self._by_attempt, key, found)
        return found

    def _add_request(self, key: _RequestKey, target: Target | None) -> _Request:
        operation, outcome, status, name, _, _, streams = key
        named = operation or NONE
        route = NONE if name is None else self._routes.label(name)
        to = NONE if target is None else self._targets.label(target.name)
        found = _Request(
            (named, route, to),
            self._series.counter(REQUESTS, (named, outcome or NONE, status_label(status), route, to)),
            self._series.histogram(DURATION, (named, _flag(streams), route)),
        )
        _remember(self._by_request, key, found)
        return found

    def _add_tokens(self, found: _Request, usage: Usage) -> None:
        if not found.tokens:
            _, route, to = found.labels
            found.tokens = tuple(self._series.counter(TOKENS, (kind, route, to)) for kind in KINDS)
        taken, given, read, created, thought = found.tokens
        taken.value += usage.input_tokens or 0
        given.value += usage.output_tokens or 0
        if usage.cache_read_input_tokens:
            read.value += usage.cache_read_input_tokens
        if usage.cache_creation_input_tokens:
            created.value += usage.cache_creation_input_tokens
        if usage.output_tokens_details is not None:
            thought.value += usage.output_tokens_details.thinking_tokens or 0

    def _add_error(self, operation: Operation | None, error_type: str) -> None:
        self._series.counter(ERRORS, (operation or NONE, known_type(error_type, OTHER))).value += 1

    def _add_refusal(self, limit: Limit, mode: str) -> None:
        labels = self._limits.label(limit_words(limit)), self._limits.label(limit.dimension), mode
        self._series.counter(REFUSALS, labels).value += 1


def status_label(status: int | None) -> str:
    """The value of the label for a status: one of a closed set, whatever a host or an upstream has chosen."""
    if status is None:
        return NONE
    if status in STATUSES:
        return str(status)
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _remember(memo: dict[Key, Found], key: Key, found: Found) -> None:
    if len(memo) >= _MAX_REMEMBERED:
        memo.clear()
    memo[key] = found
