"""The trace id of a `traceparent`, valid by the specification or ignored."""

from __future__ import annotations

import pytest

from bud_asgi.protocol.trace_context import trace_id_of, trace_parent, with_trace_context

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"


@pytest.mark.parametrize("value", [b"00-%b-%b-01", b"00-%b-%b-00", b"01-%b-%b-01", b"cc-%b-%b-01-what-comes-later"])
def test_the_trace_id_of_a_valid_header(value: bytes) -> None:
    assert trace_id_of({b"traceparent": value % (TRACE, SPAN)}) == TRACE.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        TRACE,
        b"00-%b-%b" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01 " % (TRACE, SPAN),
        b"00-%b-%b-01\n" % (TRACE, SPAN),
        b"00-%b-%b-01, 00-%b-%b-01" % (TRACE, SPAN, TRACE, SPAN),
        b"01-%b-%b-01.more" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE[:-1], SPAN),
        b"00-%b-%b-0\xff" % (TRACE, SPAN),
    ],
)
def test_an_invalid_header_is_ignored(value: bytes) -> None:
    assert trace_id_of({b"traceparent": value}) is None


def test_without_a_header_there_is_no_trace() -> None:
    assert trace_id_of({}) is None


def test_the_flags_and_the_span_of_the_client_are_read() -> None:
    headers = {b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"}
    assert trace_parent(headers) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 3)


def test_another_trace_context_replaces_the_whole_of_the_clients() -> None:
    headers = {b"a": b"1", b"traceparent": b"x", b"tracestate": b"y"}
    assert with_trace_context(headers, ((b"traceparent", b"z"),)) == {b"a": b"1", b"traceparent": b"z"}
