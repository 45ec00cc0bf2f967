"""What a failed call is to the client."""

from __future__ import annotations

from itertools import product
from typing import Literal

import pytest

from bud_asgi.http import HttpError
from bud_asgi.protocol.errors import error_headers
from bud_asgi.providers import UpstreamUnavailable, unavailable

Kind = Literal["connect", "tls", "timeout", "reset", "protocol"]
FAILED: dict[Kind, tuple[int, str, str]] = {
    "connect": (502, "api_error", "The upstream could not be reached."),
    "tls": (502, "api_error", "The upstream could not be reached."),
    "timeout": (504, "timeout_error", "The upstream did not answer in time."),
    "reset": (502, "api_error", "The upstream closed the connection before its answer was whole."),
    "protocol": (502, "api_error", "The upstream's answer was malformed."),
}
FLAGS = list(product([False, True], repeat=3))


@pytest.mark.parametrize("kind", FAILED)
@pytest.mark.parametrize(("reused", "sent", "answered"), FLAGS)
def test_a_failure_states_what_happened_but_no_address(kind: Kind, reused: bool, sent: bool, answered: bool) -> None:
    error = HttpError(kind, "10.0.0.1: refused", reused=reused, sent=sent, answered=answered)
    failure = unavailable(error)
    assert (failure.status, failure.type, str(failure)) == FAILED[kind]
    assert failure.not_sent is not sent
    assert failure.retryable is None
    assert error_headers(failure) == []


def test_a_failure_is_a_502_after_which_no_other_target_is_tried_unless_marked() -> None:
    failure = UpstreamUnavailable("no")
    assert (failure.status, failure.type, failure.not_sent) == (502, "api_error", False)
