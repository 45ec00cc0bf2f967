"""The clients: conversations of an agent with a person, whose turns grow the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec

APPLICATIONS = 5
"""The conversations of an application share its tools and its system prompt."""
APPLICATION_TOKENS = 12_000
ARRIVALS = 120.0
"""Seconds over which the conversations begin."""

LONGEST_PAUSE = 1200.0
SHORTEST_REPLY, LONGEST_REPLY = 2.0, 30.0


class Turn(msgspec.Struct, frozen=True):
    """A request of a conversation. Times are in seconds.

    `tokens` is the size of its prompt, which begins with that of the turn before. `pause` is the time before it,
    `reply` how long its reply takes from the first event, `jitter` what chance adds to the time to the first event.
    """

    conversation: int
    application: int
    number: int
    tokens: int
    pause: float
    reply: float
    jitter: float


def conversation(number: int, turns: int, seed: int) -> Iterator[Turn]:
    """The turns of a conversation. Pauses are mostly short, while tools run, and sometimes minutes (log-normal)."""
    random = Random(f"{seed}/{number}")
    tokens = APPLICATION_TOKENS + 2000
    pause = random.uniform(0.0, ARRIVALS)
    for turn in range(turns):
        reply = min(max(random.lognormvariate(2.1, 0.7), SHORTEST_REPLY), LONGEST_REPLY)  # 8 seconds as a rule
        yield Turn(number, number % APPLICATIONS, turn, tokens, pause, reply, random.lognormvariate(-1.5, 0.6))
        pause = min(random.lognormvariate(2.1, 1.5), LONGEST_PAUSE)  # 8 seconds as a rule, 25 on average
        tokens += int(random.lognormvariate(7.3, 0.8))  # 1500 as a rule
