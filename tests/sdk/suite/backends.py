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
    threads: bool = True
    """Whether it keeps conversations."""
    errors: dict[int, tuple[int, str, str]] = {}  # noqa: RUF012 - nobody changes it
    """What becomes of its errors, by their status, where they don't arrive as they came: status, type and words."""
    first_event: int = 700
    """A place in a stream, in bytes, past its first event and before the end."""


BACKENDS = {
    "anthropic": Backend(
        model="claude-haiku-4-5",
        adaptive_model="claude-opus-5",
        listed={"claude-haiku-4-5": "claude-haiku-4-5-20251001"},
        message_id="msg_01",
        envelopes=True,
    ),
    "vertex": Backend(
        model="claude-haiku-4-5-20251001",
        adaptive_model="claude-opus-5",
        listed={"claude-haiku-4-5": "claude-haiku-4-5-20251001"},
        message_id="msg_vrtx_",
        envelopes=True,
        threads=False,
    ),
    "bedrock": Backend(
        model="claude-haiku-4-5-20251001",
        adaptive_model="claude-opus-5",
        listed={"claude-haiku-4-5": "claude-haiku-4-5-20251001"},
        message_id="msg_bdrk_",
        envelopes=False,
        threads=False,
        errors={
            402: (402, "billing_error", "The upstream refused the request."),
            403: (403, "permission_error", "The upstream does not let the gateway use this model."),
            404: (404, "not_found_error", "model: claude-haiku-4-5-20251001"),
            409: (409, "conflict_error", "The upstream refused the request."),
            422: (422, "invalid_request_error", "The upstream refused the request."),
            500: (500, "api_error", "The upstream failed."),
            503: (529, "overloaded_error", "as the service says it"),
            504: (504, "timeout_error", "The model did not answer in time."),
        },
        first_event=1000,
    ),
}
NAME = os.environ["SUITE_BACKEND"]
BACKEND = BACKENDS[NAME]
