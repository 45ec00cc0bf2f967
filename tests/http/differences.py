"""What the httpx engine can't keep of the seam's promises, by test, and why.

Each entry is a strict expected failure: the day that httpx keeps it, the test passes, and the entry has to go.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx
import httpx2

from bud_asgi.http import Engine, HttpClient
from bud_asgi.http.httpx import HttpxEngine

_UPLOAD_FIRST = "httpcore reads nothing before the whole body is written, and a reset then has thrown the reply away"
_NO_BYTE = "httpcore does not tell whether a byte of an unfinished head, or a 1xx, has come"
_NOT_TWICE = "not knowing whether a byte came back, it sends nothing twice; nor could it be sure of a fresh connection"
_SURPLUS = "httpcore keeps a connection that something stands behind the reply of: the next caller gets it"
_REFUSES_LESS = "h11 takes a folded header for one line"

DIFFERS: Mapping[str, str] = {
    "test_an_early_413_is_read_while_30_mb_are_going_up": _UPLOAD_FIRST,
    "test_a_reply_without_a_head_to_trust_is_an_error_with_true_facts[closed within the head]": _NO_BYTE,
    "test_a_reply_without_a_head_to_trust_is_an_error_with_true_facts[closed after an interim reply]": _NO_BYTE,
    "test_a_reply_without_a_head_to_trust_is_an_error_with_true_facts[not HTTP]": (
        "h11 waits for an empty line: text that ends before one is a reset"
    ),
    "test_a_reply_without_a_head_to_trust_is_an_error_with_true_facts[a folded header]": _REFUSES_LESS,
    "test_a_reply_is_read_whole_and_its_connection_kept_if_it_may_be[rubbish behind it]": _SURPLUS,
    "test_a_reply_is_read_whole_and_its_connection_kept_if_it_may_be[a second reply behind it]": _SURPLUS,
    "test_a_second_reply_in_one_read_never_reaches_the_next_caller": _SURPLUS,
    "test_what_never_ends_is_refused_at_once[interim replies]": "httpcore counts no 1xx: `first_byte` is their limit",
    "test_interim_replies_do_not_put_off_first_byte": _NO_BYTE,
    "test_a_stale_connection_over_tls_costs_one_retry": _NOT_TWICE,
    "test_a_connection_that_ends_exactly_on_reuse_costs_one_retry": _NOT_TWICE,
    "test_a_reset_after_a_byte_came_back_is_not_retried": _NO_BYTE,
    "test_cancelled_at_any_turn_of_dialling_nothing_leaks[httpx]": (
        "httpcore 1.0.9 keeps a place in its pool for a request that was cancelled before it began; httpcore2 does not"
    ),
}

LEAKS = (
    "cancelled within the handshake or before its first step, httpcore leaves a socket or a place in its pool behind"
)
"""What differs by chance: with httpx, random cancellations are checked for harm to others, not for leaks."""


class Client(HttpClient, Protocol):
    """An engine, with what the tests read of its connections."""

    @property
    def open(self) -> int:
        """How many connections are up."""
        ...

    @property
    def idle(self) -> int:
        """How many of them wait for a request."""
        ...

    @property
    def stale_retries(self) -> int:
        """How many requests were sent once more."""
        ...

    @property
    def ticking(self) -> bool:
        """Whether something is still scheduled."""
        ...


class Ours(Engine):
    """Our engine."""

    @property
    def ticking(self) -> bool:
        return self._loop_state.clock.ticking


class Httpx(HttpxEngine):
    """The httpx engine, over a client of its own."""

    stale_retries = 0

    @property
    def _connections(self) -> list[Any]:
        pool: Any = self._source._transport._pool  # pyright: ignore[reportAttributeAccessIssue] - httpx's own
        return [each for each in pool.connections if not each.is_closed()]

    @property
    def open(self) -> int:
        return len(self._connections)

    @property
    def idle(self) -> int:
        return sum(each.is_idle() for each in self._connections)

    @property
    def ticking(self) -> bool:
        return self._clock.ticking


Make = Callable[[ssl.SSLContext], Client]
"""Makes a client that trusts what the context does."""

ENGINES: Mapping[str, Make] = {
    "ours": lambda trust: Ours(),
    "httpx": lambda trust: Httpx(lambda: httpx.AsyncClient(verify=trust, trust_env=False)),
    "httpx2": lambda trust: Httpx(lambda: httpx2.AsyncClient(verify=trust, trust_env=False)),
}
