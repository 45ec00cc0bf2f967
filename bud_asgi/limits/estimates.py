"""Estimates of what a request will use, learned from what earlier ones have used."""

from __future__ import annotations

from math import exp
from typing import TypeVar

import msgspec

from bud_asgi.protocol.estimate import estimated_input, may_have_files

MAX_HISTORIES = 20_000
"""The most pairs of a model and a principal that are remembered; the oldest are forgotten first."""

FIRST_OUTPUT = 1024
"""The output tokens that are reserved for a model of which no reply has been seen yet."""

OUTPUT_PERCENTILE = 0.9
"""The share of replies that need no more output tokens than are reserved for them."""

_K = TypeVar("_K")
_MOST_INPUT = 1.0  # tokens for each byte: what is beyond comes from documents that the body refers to
_SMOOTHING = 0.2  # the weight of the latest reply in the ratio
_STEP = 0.5  # of the logarithm of the percentile, for each reply
_UP = exp(_STEP * OUTPUT_PERCENTILE)
_DOWN = exp(_STEP * (OUTPUT_PERCENTILE - 1))


class History(msgspec.Struct, gc=False):
    """What replies of a model have used: input tokens per byte of the body, and a percentile of the output tokens.

    That of one principal is `within` that of all, which stands in as long as it is empty.
    """

    within: History | None = None
    input_ratio: float | None = None
    output: float | None = None

    def expect(self, body: bytes, max_tokens: int | None) -> tuple[int, int]:
        """The input tokens that a request with this body will probably use, and an output that most replies stay below.

        The output is at most `max_tokens`.
        """
        ratio, output = self.input_ratio, self.output
        if output is None or ratio is None:
            return self._expect_of_all(body, max_tokens)
        taken, given = _input(ratio, body), round(output)
        return taken, given if max_tokens is None or given < max_tokens else max_tokens

    def learn(self, size: int, input_tokens: int | None, output_tokens: int | None) -> None:
        """Take a complete reply into account. `size` is the length of the request's body in bytes."""
        ratio = None if input_tokens is None or not size else min(input_tokens / size, _MOST_INPUT)
        self.add(ratio, output_tokens)
        if self.within is not None:
            self.within.add(ratio, output_tokens)

    def _expect_of_all(self, body: bytes, max_tokens: int | None) -> tuple[int, int]:
        """The same where one of the two is not known."""
        outer = self.within or self
        ratio = self.input_ratio or outer.input_ratio
        taken = _input(ratio, body) if ratio else estimated_input(body).input_tokens
        given = round(self.output or outer.output or FIRST_OUTPUT)
        return taken or 1, given if max_tokens is None or given < max_tokens else max_tokens

    def add(self, ratio: float | None, output: int | None) -> None:
        """Take a ratio and an output into account, where they are known."""
        if ratio is not None:
            known = self.input_ratio
            self.input_ratio = ratio if known is None else known + _SMOOTHING * (ratio - known)
        if output is not None:
            known = self.output
            if known is None:
                self.output = float(output or 1)
            else:  # the steps up and down cancel each other out at the percentile
                self.output = known * _UP if output > known else known * _DOWN if known > 1.0 else 1.0


def _input(ratio: float, body: bytes) -> int:
    """The tokens of a body. Files have far fewer than the ratio would make of their size."""
    taken = round(ratio * len(body)) or 1
    return min(taken, estimated_input(body).input_tokens or 1) if may_have_files(body) else taken


class Estimates:
    """The histories of models and principals. The oldest are forgotten when there are too many."""

    def __init__(self) -> None:
        self._by_pair: dict[tuple[str, str], History] = {}
        self._by_model: dict[str, History] = {}

    def __len__(self) -> int:
        return len(self._by_pair) + len(self._by_model)

    def of(self, model: str, principal: str) -> History:
        """The history of a model and a principal, made here if there is none."""
        pair = (model, principal)
        history = self._by_pair.get(pair)
        if history is None:
            of_all = self._by_model.get(model)
            if of_all is None:
                of_all = _remember(self._by_model, model, History())
            history = _remember(self._by_pair, pair, History(of_all))
        return history


def _remember(histories: dict[_K, History], key: _K, history: History) -> History:
    if len(histories) >= MAX_HISTORIES:
        histories.pop(next(iter(histories)), None)  # another thread may have done so
    histories[key] = history
    return history
