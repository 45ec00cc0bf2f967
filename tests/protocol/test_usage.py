"""Token usage: read from messages and events, merged by the cumulative rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol.usage import (
    CacheCreation,
    Iteration,
    OutputTokensDetails,
    ServerToolUse,
    Usage,
    usage_of_message,
    usage_of_start,
)

COUNTS: dict[str, tuple[bytes, Usage | None]] = {
    "all of them": (
        b'{"input_tokens":1,"output_tokens":2,"cache_creation_input_tokens":3,"cache_read_input_tokens":4}',
        Usage(1, 2, 3, 4),
    ),
    "some": (b'{"output_tokens":2}', Usage(None, 2, None, None)),
    "nulls": (b'{"input_tokens":null,"output_tokens":0}', Usage(None, 0, None, None)),
    "unknown counts": (
        b'{"input_tokens":1,"server_tool_use":{"a":1},"new":"x"}',
        Usage(1, server_tool_use=ServerToolUse()),
    ),
    "details": (
        (
            b'{"cache_creation":{"ephemeral_5m_input_tokens":1,"ephemeral_1h_input_tokens":2},"service_tier":"priority",'
            b'"output_tokens_details":{"thinking_tokens":3},"server_tool_use":{"web_search_requests":4},"speed":"fast",'
            b'"inference_geo":"us"}'
        ),
        Usage(
            cache_creation=CacheCreation(1, 2),
            output_tokens_details=OutputTokensDetails(3),
            server_tool_use=ServerToolUse(4),
            service_tier="priority",
            inference_geo="us",
            speed="fast",
        ),
    ),
    "iterations": (
        (
            b'{"output_tokens":9,"iterations":[{"type":"message","input_tokens":1,"output_tokens":2,"new":{}},'
            b'{"type":"advisor_message","model":"claude-opus-5-5","output_tokens":7,"cache_read_input_tokens":3}]}'
        ),
        Usage(
            output_tokens=9,
            iterations=(
                Iteration("message", None, 1, 2),
                Iteration("advisor_message", "claude-opus-5-5", None, 7, None, 3),
            ),
        ),
    ),
    "details of an unknown form": (b'{"output_tokens":9,"iterations":{"a":1}}', Usage(output_tokens=9)),
    "none": (b"{}", Usage()),
    "null": (b"null", None),
    "a count that is a string": (b'{"input_tokens":"1"}', None),
    "a count with a fraction": (b'{"input_tokens":1.5}', None),
    "a list": (b"[]", None),
    "invalid UTF-8 in an unknown key": (b'{"\xff":1}', Usage()),
    "nested too deeply": (b'{"a":' + b"[" * 100_000, None),
}


@pytest.mark.parametrize(("text", "usage"), COUNTS.values(), ids=COUNTS.keys())
def test_the_usage_of_a_message_is_read(text: bytes, usage: Usage | None) -> None:
    assert usage_of_message(b'{"id":"msg_1","usage":%b,"content":[]}' % text) == usage


@pytest.mark.parametrize(("text", "usage"), COUNTS.values(), ids=COUNTS.keys())
def test_the_usage_of_a_start_is_read(text: bytes, usage: Usage | None) -> None:
    assert usage_of_start(b'{"type":"message_start","message":{"usage":%b,"id":"msg_1"}}' % text) == usage


@pytest.mark.parametrize("text", [b"", b"{", b"1", b"null", b"[]", b'{"id":"msg_1"}', b'{"usage":1}', b"<html>"])
def test_without_usage_the_result_is_none(text: bytes) -> None:
    assert usage_of_message(text) is None
    assert usage_of_start(text) is None
    assert usage_of_start(b'{"message":' + text + b"}") is None


def test_a_later_count_replaces_the_earlier_and_a_missing_one_does_not() -> None:
    assert Usage(1, 2, 3, 4).updated(Usage()) == Usage(1, 2, 3, 4)
    assert Usage().updated(Usage(1, 2, 3, 4)) == Usage(1, 2, 3, 4)
    assert Usage(1, 2, None, 4).updated(Usage(0, None, 5, 3)) == Usage(0, 2, 5, 3)


_usages = st.builds(Usage, *[st.none() | st.integers(0, 9)] * 4)


@pytest.mark.torture
@examples()
@given(first=_usages, second=_usages, third=_usages)
def test_reports_may_be_merged_in_any_grouping(first: Usage, second: Usage, third: Usage) -> None:
    assert first.updated(second).updated(third) == first.updated(second.updated(third))


@pytest.mark.torture
@examples()
@given(text=st.binary(max_size=40))
def test_arbitrary_bytes_never_raise(text: bytes) -> None:
    assert usage_of_message(text) is None
    usage_of_start(b'{"message":' + text)
    usage_of_message(b'{"usage":{"input_tokens":' + text)
