"""Where the httpx engine differs from the `HttpClient` interface: the tests it fails, and why.

Each entry is a strict expected failure: once httpx allows it, the test passes and the entry has to be removed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx
import httpx2

from bud_asgi.http import Engine, HttpClient
from bud_asgi.http.httpx import HttpxEngine

_UPLOAD_FIRST = "httpcore reads nothing before the whole body is written, and by then a reset has discarded the reply"
_NO_BYTE = "httpcore does not report whether a byte of an unfinished head, or a 1xx reply, was received"
_NOT_TWICE = "it cannot know whether a byte came back, nor request a new connection, so it never retries"
_TRAILING = "httpcore reuses a connection with data after the reply: the next caller receives that data"
_REFUSES_LESS = "h11 accepts a folded header"

DIFFERS: Mapping[str, str] = {
    "test_an_early_413_is_read_during_an_upload_of_30_mb": _UPLOAD_FIRST,
    "test_a_reply_without_a_valid_head_is_an_error_with_correct_facts[closed within the head]": _NO_BYTE,
    "test_a_reply_without_a_valid_head_is_an_error_with_correct_facts[closed after an interim reply]": _NO_BYTE,
    "test_a_reply_without_a_valid_head_is_an_error_with_correct_facts[not HTTP]": (
        "h11 waits for an empty line, so text that ends before one is a reset"
    ),
    "test_a_reply_without_a_valid_head_is_an_error_with_correct_facts[a folded header]": _REFUSES_LESS,
    "test_a_reply_is_read_whole_and_its_connection_kept_if_reusable[rubbish after it]": _TRAILING,
    "test_a_reply_is_read_whole_and_its_connection_kept_if_reusable[a second reply after it]": _TRAILING,
    "test_a_second_reply_in_one_read_never_reaches_the_next_caller": _TRAILING,
    "test_endless_framing_is_refused_at_once[interim replies]": "only `first_byte` limits 1xx replies in httpcore",
    "test_interim_replies_do_not_extend_first_byte": _NO_BYTE,
    "test_a_stale_connection_over_tls_causes_one_retry": _NOT_TWICE,
    "test_a_connection_that_ends_when_it_is_reused_causes_one_retry": _NOT_TWICE,
    "test_a_reset_after_a_byte_came_back_is_not_retried": _NO_BYTE,
    "test_cancelled_at_any_loop_iteration_of_dialling_nothing_leaks[httpx]": (
        "httpcore 1.0.9 leaks a pool slot when a request is cancelled before it starts; httpcore2 does not"
    ),
}

LEAKS = "cancelled at an unlucky moment, httpcore leaks a pool slot"
"""A difference that depends on timing: httpx is tested for the effect of cancellation on others, not for leaks."""


class Client(HttpClient, Protocol):
    """An engine, with the counters that the tests read."""

    @property
    def open(self) -> int:
        """Number of open connections."""
        ...

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        ...

    @property
    def stale_retries(self) -> int:
        """Number of requests that were sent once more."""
        ...

    @property
    def ticking(self) -> bool:
        """Whether the clock is still running."""
        ...


class Own(Engine):
    """The project's engine."""

    @property
    def ticking(self) -> bool:
        return self._loop_state.clock.ticking


class Httpx(HttpxEngine):
    """The httpx engine, over a client that it creates."""

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
"""Makes a client that trusts what the context trusts."""

ENGINES: Mapping[str, Make] = {
    "engine": lambda trust: Own(),
    "httpx": lambda trust: Httpx(lambda: httpx.AsyncClient(verify=trust, trust_env=False)),
    "httpx2": lambda trust: Httpx(lambda: httpx2.AsyncClient(verify=trust, trust_env=False)),
}
