"""The order in which the targets of a group are tried: by weight, by load, or by the prompt cache. Pure.

Each function returns all candidates, the one to try first at the front; the others are its failovers. Pass only those
that are available: a target that is down has nothing in flight, which would make the others look overloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import inf, log, sqrt
from typing import Protocol

import msgspec

from bud_asgi.attempt import Target
from bud_asgi.options import mismatch

FACTOR = 1.25
"""How many times its share of the requests in flight a target may have before conversations move to others."""

ALWAYS_FREE = 2
"""With so many requests in flight, or fewer, a target is never overloaded."""

DEVIATIONS = 0.75
"""How many standard deviations above its share count as chance.

Requests arrive at random, so with `n` in flight on average, `n` plus or minus `sqrt(n)` is usual. A target must have
more than that, or conversations would lose their cache for nothing. `make simulate` compares other values.
"""

_CHANCE = 0.1
"""Times to the first event that differ by a smaller share are equal. So a target whose time is old gets a request."""

_WORD = (1 << 64) - 1


class Load(Protocol):
    """How busy a target is now, as this process sees it. Read whenever an order is made, never changed."""

    @property
    def in_flight(self) -> int:
        """The requests that the target is serving."""
        ...

    @property
    def first_byte_seconds(self) -> float | None:
        """The usual time to its first event, in seconds; `None` if it is not known yet."""
        ...

    def first_byte_weight(self, now: float) -> float:
        """How much that time still counts, from 1 for the newest down to 0. `now` is seconds on a monotonic clock."""
        ...


class Candidate(msgspec.Struct, frozen=True, eq=False):
    """A target of a group, with its weight and its load. Made once for a route and used for each of its requests.

    A target with twice the weight gets twice the requests. `point` is computed: it stands for the target in the hash of
    `by_affinity`, from 0 to 1. Raises `OptionError` for a weight that is not above 0.
    """

    target: Target
    load: Load
    weight: float = 1.0
    point: float = 0.0

    def __post_init__(self) -> None:
        """Check the weight, and hash the target by its provider and model: every replica gets the same number."""
        if not 0.0 < self.weight < inf:
            raise mismatch("weight", "a number above 0", self.weight)
        text = f"{self.target.provider}\0{self.target.model or ''}"
        digest = blake2b(text.encode(), digest_size=8).digest()
        msgspec.structs.force_setattr(self, "point", (int.from_bytes(digest) >> 11) / (1 << 53))


def by_weight(candidates: Sequence[Candidate], fraction: Callable[[], float]) -> list[Candidate]:
    """Order at random: each place goes to one of the remaining candidates, with a probability by its weight.

    `fraction` returns random numbers from 0 up to but not including 1, as `random.random` does.
    """
    return sorted(candidates, key=lambda candidate: log(1.0 - fraction()) / candidate.weight, reverse=True)


def least_busy(candidates: Sequence[Candidate], fraction: Callable[[], float], now: float) -> list[Candidate]:
    """Order as `by_weight` does, and exchange the first two if the second would answer sooner.

    Comparing two at random (the power of two choices) keeps replicas that do not know of each other from sending
    everything to the same target. `now` is seconds on a monotonic clock.
    """
    ordered = by_weight(candidates, fraction)
    if len(ordered) > 1 and _answers_sooner(ordered[1], ordered[0], now):
        ordered[0], ordered[1] = ordered[1], ordered[0]
    return ordered


def _answers_sooner(candidate: Candidate, other: Candidate, now: float) -> bool:
    """Compare the time to the first event times the requests in flight; by these alone where a time is not known."""
    mine = (candidate.load.in_flight + 1) / candidate.weight
    theirs = (other.load.in_flight + 1) / other.weight
    my_time, their_time = candidate.load.first_byte_seconds, other.load.first_byte_seconds
    if my_time is None or their_time is None:
        return mine < theirs
    my_weight, their_weight = candidate.load.first_byte_weight(now), other.load.first_byte_weight(now)
    common = (my_weight * my_time + their_weight * their_time) / (my_weight + their_weight or 1.0)
    my_time = common + my_weight * (my_time - common)
    their_time = common + their_weight * (their_time - common)
    if abs(my_time - their_time) <= _CHANCE * max(my_time, their_time):
        return mine < theirs
    return my_time * mine < their_time * theirs


def by_affinity(
    candidates: Sequence[Candidate], key: int, factor: float = FACTOR, deviations: float = DEVIATIONS
) -> list[Candidate]:
    """Order by weighted rendezvous hashing with bounded load, for a key of up to 64 bits.

    A target whose requests in flight exceed `factor` x its share by more than `deviations` standard deviations is
    overloaded: the first that is not comes to the front.
    """
    ordered = by_hash(candidates, key)
    if len(ordered) < 2 or ordered[0].load.in_flight <= ALWAYS_FREE:
        return ordered
    total_weight = sum(candidate.weight for candidate in ordered)
    per_weight = sum(candidate.load.in_flight for candidate in ordered) / total_weight
    for index, candidate in enumerate(ordered):
        if not _is_overloaded(candidate, per_weight, factor, deviations):
            ordered.insert(0, ordered.pop(index))
            break
    return ordered


def by_hash(candidates: Sequence[Candidate], key: int) -> list[Candidate]:
    """Order by weighted rendezvous hashing alone, for a key of up to 64 bits: the first is the key's home.

    Every replica has the same order for a key. A target that leaves takes only its own keys along, to the next of each
    key's order; one that joins takes only those that it wins.
    """
    # The fraction of `multiplier * point` is spread evenly over 0 to 1, and independent of that of another point
    # (multiplicative hashing). To mix 64-bit integers for each target would take three times as long.
    multiplier = float(_mix(key) >> 32 | 1)
    return sorted(candidates, key=lambda each: log(1.0 - multiplier * each.point % 1.0) / each.weight, reverse=True)


def _is_overloaded(candidate: Candidate, per_weight: float, factor: float, deviations: float) -> bool:
    share = per_weight * candidate.weight
    return candidate.load.in_flight > max(ALWAYS_FREE, factor * share + deviations * sqrt(share + 1.0))


def _mix(key: int) -> int:
    """Spread a key over 64 bits, so that keys that differ in few bits have nothing in common (splitmix64)."""
    key = (key + 0x9E3779B97F4A7C15) & _WORD
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _WORD
    return key ^ (key >> 31)
