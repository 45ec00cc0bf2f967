"""What a limit is: how much of what, in which time, for whom. Data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from inspect import iscoroutinefunction
from math import inf
from typing import Literal, get_args
from urllib.parse import quote

import msgspec

from bud_asgi.options import (
    OptionError,
    check_choice,
    check_flag,
    check_function,
    check_integer,
    check_items,
    check_seconds,
    check_texts,
    check_type,
    duplicates,
    mismatch,
    one_of,
)
from bud_asgi.protocol.patterns import matches_any

Kind = Literal["requests", "input_tokens", "output_tokens", "tokens", "concurrent"]
"""What is limited. `tokens` counts input and output together, `concurrent` the requests that run at the same time."""

Mode = Literal["enforce", "observe"]

KINDS: tuple[Kind, ...] = get_args(Kind)
TOKENS: frozenset[Kind] = frozenset({"input_tokens", "output_tokens", "tokens"})
PER = ("principal", "team", "model", "all")
DEFAULT_WINDOW = 60.0
LONGEST_WAIT = 60.0
"""Seconds: the longest that a request may wait for a limit, and the longest `retry-after` that clients wait for."""

_WINDOWS = {1.0: "per second", 60.0: "per minute", 3600.0: "per hour", 86400.0: "per day"}
_INPUT: frozenset[Kind] = frozenset({"input_tokens", "tokens"})
_PATTERNS = 'a list of names or patterns with *, such as ["team-*"]'

Dimension = Callable[..., str | None]
"""A function of the `Exchange` that returns the name of the bucket of a request, or `None` for none."""


class Limit(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """At most `amount` of a kind in `window` seconds (60 by default), for each principal or other `per`.

    It is a token bucket: an idle caller may use the whole amount at once, and the bucket refills evenly. `concurrent`
    has no window: it is the number of requests that run at the same time.

    `per` is `principal`, `team`, `model` (the name that the request resolves to) or `all`, or a function of the
    `Exchange`, sync and named, that returns the name of the bucket (`None`: the limit does not apply). `models`,
    `teams` and `principals` are names or patterns with `*`: the limit applies only to requests that match them.

    With `mode="observe"` use is counted and reported, and nothing is refused. `wait` is how many seconds a request may
    wait for room instead of being refused. With `cache_reads`, input tokens that were read from the prompt cache count
    too, which are free at the service (vendor page "Rate limits"). Raises `OptionError`.
    """

    kind: Kind
    amount: int
    window: float | None = None
    per: str | Dimension = "principal"
    models: tuple[str, ...] = ("*",)
    teams: tuple[str, ...] = ("*",)
    principals: tuple[str, ...] = ("*",)
    mode: Mode = "enforce"
    wait: float = 0.0
    cache_reads: bool = False

    def __post_init__(self) -> None:
        """Check the options, each and together; lists become tuples."""
        check_choice("kind", self.kind, KINDS)
        check_integer("amount", self.amount, "a whole number, at least 1")
        _check_window(self)
        _check_per(self.per)
        for option in ("models", "teams", "principals"):
            patterns = check_texts(option, getattr(self, option), _PATTERNS)
            if not patterns:
                raise OptionError(option, "an empty list matches nothing, so that the limit would never apply")
            msgspec.structs.force_setattr(self, option, ("*",) if "*" in patterns else patterns)
        check_choice("mode", self.mode, get_args(Mode))
        check_seconds("wait", self.wait, maximum=LONGEST_WAIT, zero=True)
        if self.wait and self.mode == "observe":
            raise OptionError("wait", 'meaningless with mode = "observe", which refuses nothing', other="mode")
        check_flag("cache_reads", self.cache_reads)
        if self.cache_reads and self.kind not in _INPUT:
            raise OptionError("cache_reads", f"meaningless for {self.kind}, which do not count input", other="kind")

    @property
    def rate(self) -> float:
        """Units that are refilled in a second; 0 for `concurrent`, which does not refill."""
        return self.amount / (self.window or inf)

    @property
    def is_tokens(self) -> bool:
        """Whether it limits tokens."""
        return self.kind in TOKENS

    @property
    def observed(self) -> bool:
        """Whether it only counts, and refuses nothing."""
        return self.mode == "observe"

    @property
    def dimension(self) -> str:
        """The name of `per`."""
        per = self.per
        if isinstance(per, str):
            return per
        named = per if hasattr(per, "__qualname__") else type(per)
        return f"{named.__module__}.{named.__qualname__}"

    def applies_to(self, *, principal: str, team: str | None) -> bool:
        """Whether it applies to this caller, whatever the model."""
        return (self.principals == ("*",) or matches_any(self.principals, principal)) and (
            self.teams == ("*",) or (team is not None and matches_any(self.teams, team))
        )

    def applies_to_model(self, model: str) -> bool:
        """Whether it applies to the model of that resolved name."""
        return matches_any(self.models, model)


@lru_cache(maxsize=4096)
def limit_id(limit: Limit) -> str:
    """The identity of a limit, equal in every process. `amount` and `wait` may change while what is used is kept."""
    window = str(limit.window).removesuffix(".0") if limit.window else ""
    parts = [limit.kind, window, limit.dimension, limit.mode]
    if limit.cache_reads:
        parts.append("cache_reads")
    for name, patterns in (("models", limit.models), ("teams", limit.teams), ("principals", limit.principals)):
        parts += [f"{name}={quote(pattern, safe=':*@')}" for pattern in sorted(set(patterns)) if pattern != "*"]
    return "/".join(parts)


def limit_words(limit: Limit) -> str:
    """A limit in words, such as `60 requests per minute`."""
    kind = limit.kind.replace("_", " ")
    if limit.amount == 1 and kind.endswith("s"):
        kind = kind[:-1]
    if limit.kind == "concurrent":
        return f"{limit.amount:,} concurrent request{'s' if limit.amount > 1 else ''}"
    window = limit.window or 0.0
    return f"{limit.amount:,} {kind} {_WINDOWS.get(window) or f'in {window:g} seconds'}"


def check_limits(limits: Sequence[Limit], option: str = "limits") -> tuple[Limit, ...]:
    """Check for a list of limits, no two of which count the same, and return it as a tuple. Raises `OptionError`."""
    checked = check_items(
        option, limits, "a list of Limit", lambda name, limit: check_type(name, limit, Limit, "a Limit")
    )
    for index, first in duplicates(limit_id(limit) for limit in checked):
        raise OptionError(f"{option}[{index}]", f"counts the same as {option}[{first}]; expected one limit for both")
    return checked


def check_own_limits(limits: Sequence[Limit], option: str = "limits") -> tuple[Limit, ...]:
    """The same for limits that a key or principal carries: they count for that caller alone. Raises `OptionError`."""
    checked = check_limits(limits, option)
    for index, limit in enumerate(checked):
        if limit.per != "principal":
            raise OptionError(f"{option}[{index}].per", "a limit that a caller carries counts for that caller alone")
        if limit.teams != ("*",) or limit.principals != ("*",):
            name = "teams" if limit.teams != ("*",) else "principals"
            raise OptionError(f"{option}[{index}].{name}", "meaningless on a limit that a caller carries")
    return checked


def _check_per(per: str | Dimension) -> None:
    if not callable(per):
        if not isinstance(per, str) or per not in PER:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise mismatch("per", f"{one_of(PER)}, or a function of the Exchange", per)
        return
    check_function("per", per, "a function of the Exchange that returns a string or None", None)
    if iscoroutinefunction(per):
        raise OptionError("per", "must not be an async function: nothing can be awaited where it is called")


def _check_window(limit: Limit) -> None:
    if limit.kind == "concurrent":
        if limit.window is not None:
            raise OptionError(
                "window", "meaningless for concurrent, the requests that run at the same time", other="kind"
            )
    elif limit.window is None:
        msgspec.structs.force_setattr(limit, "window", DEFAULT_WINDOW)
    else:
        check_seconds("window", limit.window, maximum=1e9)
        msgspec.structs.force_setattr(limit, "window", float(limit.window))
