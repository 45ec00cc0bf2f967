"""What differs by the backend behind the gateway, and by the generation of the SDK."""

from __future__ import annotations

import os
from typing import NamedTuple

import anthropic

OLDER = int(anthropic.__version__.split(".")[0]) < 2
"""The generation before 2: `x-api-key`, version 2023-06-01, `?beta=true`."""

VERSION = "2023-06-01" if OLDER else "2026-10-21"


class Backend(NamedTuple):
    """The models to ask for, and what only some have."""

    model: str
    """Thinks with a budget."""
    adaptive_model: str
    """Thinks as it likes."""
    listed: dict[str, str]
    """An alias, and the id that it stands for."""
    message_id: str
    """How ids begin."""
    envelopes: bool
    """Whether its errors are in the Anthropic envelope, and so arrive as they came."""


BACKENDS = {
    "anthropic": Backend(
        model="claude-haiku-4-5",
        adaptive_model="claude-opus-5",
        listed={"claude-haiku-4-5": "claude-haiku-4-5-20251001"},
        message_id="msg_01",
        envelopes=True,
    ),
}
NAME = os.environ["SUITE_BACKEND"]
BACKEND = BACKENDS[NAME]
