"""What follows when an attempt has failed: the class of its end, another target or not, and the error that is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime

import msgspec

from bud_asgi.attempt import Attempt, AttemptEnd
from bud_asgi.protocol.errors import GatewayError, read_error
from bud_asgi.providers import TranslatedUpstreamError, UpstreamErrorResponse, UpstreamUnavailable
from bud_asgi.routing import Verdict
from bud_asgi.sliding_count import SlidingCount
from bud_asgi.state import RetryBudgetState

TRY_NEXT: Mapping[AttemptEnd, bool] = {
    "answered": False,
    "unsupported": True,
    "not_sent": True,
    "refused": False,
    "denied": True,
    "overloaded": True,
    "unknown": True,
    "broken": False,
    "client_gone": False,
    "cancelled": False,
}
"""Whether another target may be tried after an attempt that ended so."""

MAX_ATTEMPTS = 3
"""The most targets that one request is sent to."""

LOADS_UPSTREAMS: frozenset[AttemptEnd] = frozenset({"overloaded", "unknown"})
"""Ends after which another attempt adds load to upstreams that may be failing already: the budget limits those."""

_BUSY = frozenset({429, 529})
_TEMPORARY = frozenset({408, 424, 429})


def classify(error: GatewayError, *, committed: bool, own_credential: bool = True) -> AttemptEnd:
    """How an attempt ended, from its error and from whether the response was committed to its reply.

    `own_credential`: it was made with a credential of the gateway's, not the client's.
    """
    if isinstance(error, UpstreamUnavailable):
        uncommitted: AttemptEnd = "denied" if error.denied else "not_sent" if error.not_sent else "unknown"
        return "broken" if committed else uncommitted
    if not isinstance(error, TranslatedUpstreamError | UpstreamErrorResponse):
        return "unsupported"
    if not own_credential and error.status in {401, 403}:
        return "refused"  # whatever the upstream advises: the next target may have a credential of the gateway's
    return "denied" if _is_denied(error, own_credential) else _by_status(error)


def _is_denied(error: TranslatedUpstreamError | UpstreamErrorResponse, own_credential: bool) -> bool:
    if isinstance(error, TranslatedUpstreamError):
        return error.credential or error.denied or (error.status in {403, 404} and own_credential)
    if error.status != 404:
        return False
    parsed = read_error(error.body)  # without a code it is the model; with one it is what the request names
    return parsed is None or not parsed.has_code


def _by_status(error: GatewayError) -> AttemptEnd:
    """An upstream's `x-should-retry` overrides its status, but for 429 and 529: another account may have room."""
    advice, status = error.headers.get("x-should-retry"), error.status
    if status in _BUSY:
        return "overloaded"
    if advice is not None:
        return "overloaded" if advice == "true" else "refused"
    return "overloaded" if status in _TEMPORARY or status >= 500 else "refused"


def verdict_on(attempt: Attempt, error: BaseException, now: float) -> tuple[Verdict, float | None]:
    """What a failed attempt shows of its target's health, and the `retry-after` of an upstream that is busy.

    `now` is the Unix time.
    """
    if attempt.end in {"not_sent", "unknown", "broken"}:
        return "failed", None
    if attempt.end == "denied":
        of_credential = isinstance(error, UpstreamUnavailable | TranslatedUpstreamError) and _is_of_credential(error)
        if of_credential:
            return "credential", None
        # Without a model of its own, the target got the client's name for it, which may be misspelt.
        return ("missing" if attempt.target.model is not None else "neutral"), None
    if attempt.end == "overloaded" and isinstance(error, GatewayError):
        return ("busy", retry_after(error, now)) if error.status in _BUSY else ("failed", None)
    return "neutral", None


def _is_of_credential(error: UpstreamUnavailable | TranslatedUpstreamError) -> bool:
    return error.denied or (isinstance(error, TranslatedUpstreamError) and error.credential)


class UpstreamsFull(GatewayError):
    """All targets of the request have as many calls as they may."""

    status = 529
    type = "overloaded_error"

    def __init__(self) -> None:
        super().__init__("All upstreams of this model are busy.", headers={"retry-after": "1"})


class Failure(msgspec.Struct, frozen=True):
    """An attempt that failed: how it ended, and the error as the client may see it."""

    end: AttemptEnd
    error: GatewayError


def error_to_show(failures: Sequence[Failure], now: float) -> GatewayError:
    """The most useful of the errors, where no target is left; its `retry-after` is the soonest of all.

    A verdict on the request itself comes first: it would be the same tomorrow. Of several, the first is about what the
    client wrote. Then what can be retried, 429 before the rest, then what the operator has to repair: a 403, a
    404, a 501, and a rejected credential. `now` is the Unix time.
    """
    last = failures[-1]
    if last.end == "refused":
        return next(failure.error for failure in failures if failure.end == "refused")
    if len(failures) == 1:
        return last.error
    chosen = max(enumerate(failures), key=lambda pair: (_usefulness(pair[1]), pair[0]))[1].error
    waits = [wait for failure in failures if (wait := retry_after(failure.error, now)) is not None]
    if waits and chosen.retryable is not False and chosen.headers.get("x-should-retry") != "false":
        headers = {name: value for name, value in chosen.headers.items() if name != "retry-after-ms"}
        chosen.headers = {**headers, "retry-after": f"{min(waits):.3f}".rstrip("0").rstrip(".")}
    return chosen


def _usefulness(failure: Failure) -> int:
    if failure.error.status == 429:
        return 7
    if failure.end == "denied":
        return {403: 4, 404: 3, 501: 2}.get(failure.error.status, 1)
    order: Mapping[AttemptEnd, int] = {"overloaded": 6, "unknown": 6, "not_sent": 5}
    return order.get(failure.end, 0)


def retry_after(error: GatewayError, now: float) -> float | None:
    """The seconds in an error's `retry-after` or `retry-after-ms`; `None` for neither. A date counts from `now`."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = error.headers.get(name, "")
        if value.isascii() and value.replace(".", "", 1).isdigit():
            return float(value) / unit
    try:  # RFC 9110, 10.2.3
        return max(0.0, parsedate_to_datetime(error.headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, OverflowError):
        return None


class RetryBudget:
    """Stops retry storms: further attempts that fail are at most a share of all attempts in the last minute, or a few.

    One that succeeds is given back. So while upstreams fail now and then, each failure is followed by another attempt;
    while they fail all the time, hardly any is. Times are seconds on a clock that only goes forward. `taken`,
    `returned` and `refused` count since the start.
    """

    def __init__(self, *, share: float = 0.1, floor: int = 3, window: float = 60.0) -> None:
        self._share = share
        self._floor = floor
        self._attempts = SlidingCount(window, 10)
        self._retries = SlidingCount(window, 10)
        self.count: Callable[[float], None] = self._attempts.add
        """Count an attempt that is sent."""
        self.taken = self.returned = self.refused = 0

    def take(self, now: float) -> bool:
        """Whether a further attempt may be made; if so, it is counted."""
        if self._retries.total(now) + 1 > self._allowed(now):
            self.refused += 1
            return False
        self._retries.add(now)
        self.taken += 1
        return True

    def state(self, now: float) -> RetryBudgetState:
        """How it stands."""
        attempts, retries = self._attempts.total(now), self._retries.total(now)
        return RetryBudgetState(attempts, retries, self._allowed(now), self.taken, self.returned, self.refused)

    def _allowed(self, now: float) -> float:
        return max(float(self._floor), self._share * self._attempts.total(now))

    def give_back(self, now: float) -> None:
        """Give back a further attempt that has succeeded, unless it is counted no more."""
        if self._retries.total(now):
            self._retries.add(now, -1)
            self.returned += 1


def may_try_next(
    failures: Sequence[Failure], budget: RetryBudget, now: float, deadline: float, *, on_unknown: bool = True
) -> bool:
    """Whether another target is tried after these failures: by the table, before the deadline, within the budget.

    After an attempt whose outcome is unknown, one other target at most: each may have been billed. Without
    `on_unknown`, none.
    """
    end = failures[-1].end
    if not TRY_NEXT[end] or now >= deadline:
        return False
    if end == "unknown" and not (on_unknown and all(failure.end != "unknown" for failure in failures[:-1])):
        return False
    return end not in LOADS_UPSTREAMS or budget.take(now)
