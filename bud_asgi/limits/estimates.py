"""Estimates of what a request will use, learned from what earlier ones have used."""

from __future__ import annotations

from math import exp
from typing import TypeVar

import msgspec

from bud_asgi.protocol.estimate import estimated_input

MAX_HISTORIES = 20_000
"""The most pairs of a model and a principal that are remembered; the oldest are forgotten first."""

FIRST_OUTPUT = 1024
"""The output tokens that are reserved for a model of which no reply has been seen yet."""

OUTPUT_PERCENTILE = 0.9
"""The share of replies that need no more output tokens than are reserved for them."""

_K = TypeVar("_K")
_SMOOTHING = 0.2  # the weight of the latest reply in the ratio
_STEP = 0.5  # of the logarithm of the percentile, for each reply
_UP = exp(_STEP * OUTPUT_PERCENTILE)
_DOWN = exp(_STEP * (OUTPUT_PERCENTILE - 1))


class _History(msgspec.Struct, gc=False):
    """What replies have used: input tokens per byte of the body, and a percentile of the output tokens."""

    input_ratio: float | None = None
    output: float | None = None

    def learn(self, ratio: float | None, output: int | None) -> None:
        if ratio is not None:
            known = self.input_ratio
            self.input_ratio = ratio if known is None else known + _SMOOTHING * (ratio - known)
        if output is not None:
            known = self.output
            if known is None:
                self.output = float(output or 1)
            else:  # the steps up and down cancel each other out at the percentile
                self.output = known * _UP if output > known else known * _DOWN if known > 1.0 else 1.0


class Estimates:
    """Learns from replies, by model and principal. A new principal gets the estimates of the model."""

    def __init__(self) -> None:
        self._by_pair: dict[tuple[str, str], _History] = {}
        self._by_model: dict[str, _History] = {}

    def __len__(self) -> int:
        return len(self._by_pair) + len(self._by_model)

    def expect(self, model: str, principal: str, body: bytes, max_tokens: int | None) -> tuple[int, int]:
        """The input tokens that a request with this body will probably use, and an output that most replies stay below.

        The output is at most `max_tokens`.
        """
        own, shared = self._by_pair.get((model, principal)), self._by_model.get(model)
        ratio = (own and own.input_ratio) or (shared and shared.input_ratio)
        taken = round(ratio * len(body)) if ratio else estimated_input(body).input_tokens
        given = round((own and own.output) or (shared and shared.output) or FIRST_OUTPUT)
        return taken or 1, given if max_tokens is None or given < max_tokens else max_tokens

    def learn(self, model: str, principal: str, size: int, input_tokens: int | None, output_tokens: int | None) -> None:
        """Take a complete reply into account. `size` is the length of the request's body in bytes."""
        pair = (model, principal)
        own = self._by_pair.get(pair)
        if own is None:
            own = _remember(self._by_pair, pair)
        shared = self._by_model.get(model)
        if shared is None:
            shared = _remember(self._by_model, model)
        ratio = None if input_tokens is None or not size else input_tokens / size
        own.learn(ratio, output_tokens)
        shared.learn(ratio, output_tokens)


def _remember(histories: dict[_K, _History], key: _K) -> _History:
    if len(histories) >= MAX_HISTORIES:
        del histories[next(iter(histories))]
    history = histories[key] = _History()
    return history
