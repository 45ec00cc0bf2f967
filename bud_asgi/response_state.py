"""How far a response has come, and what may follow: data only."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal


class State(StrEnum):
    """How far a response has come."""

    NEW = "new"
    """Nothing has been sent: a failure is a status of its own."""
    STARTING = "starting"
    """The head is being sent. Whether the server has accepted it is unknown, so nothing may follow it yet."""
    STARTED = "started"
    """The head has been sent, and perhaps events: a failure is an `error` event."""
    ENDED = "ended"
    """The response is whole, or can't be continued: nothing is sent any more."""


Action = Literal["send_whole", "start", "started", "write", "finish", "fail", "break_off"]
"""What is done to a response."""

TRANSITIONS: Mapping[State, Mapping[Action, State]] = {
    State.NEW: {
        "send_whole": State.ENDED,
        "start": State.STARTING,
        "fail": State.ENDED,
    },
    State.STARTING: {
        "started": State.STARTED,
        "fail": State.ENDED,
    },
    State.STARTED: {
        "write": State.STARTED,
        "finish": State.ENDED,
        "fail": State.ENDED,
        "break_off": State.ENDED,
    },
    State.ENDED: {"fail": State.ENDED},
}
"""What may be done in which state, and the state that follows. Anything else is a programming error."""
