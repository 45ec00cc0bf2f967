"""Token usage: read from messages and events, merged by the cumulative rule."""

from __future__ import annotations

import json
import math

import msgspec
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
    "floats and strings of an integral value": (
        b'{"input_tokens":"7","output_tokens":8.0,"cache_creation_input_tokens":1e3,"cache_read_input_tokens":"2.0"}',
        Usage(7, 8, 1000, 2),
    ),
    "what is no count": (
        b'{"input_tokens":1.5,"output_tokens":-1,"cache_creation_input_tokens":true,"cache_read_input_tokens":4}',
        Usage(None, None, None, 4),
    ),
    "strings that are no count": (
        b'{"input_tokens":"-1","output_tokens":"1_0","cache_creation_input_tokens":" 7","speed":"nan"}',
        Usage(speed="nan"),
    ),
    "numbers that JSON lacks": (
        b'{"input_tokens":NaN,"output_tokens":7,"cache_read_input_tokens":Infinity}',
        Usage(None, 7),
    ),
    "numbers too large": (
        b'{"input_tokens":9007199254740993,"output_tokens":7,"cache_read_input_tokens":1%b}' % (b"0" * 5000),
        Usage(None, 7),
    ),
    "the largest number": (b'{"input_tokens":9007199254740991}', Usage((1 << 53) - 1)),
    "one bad detail": (
        (
            b'{"output_tokens":9,"cache_creation":{"ephemeral_5m_input_tokens":-1,"ephemeral_1h_input_tokens":"2"},'
            b'"output_tokens_details":[],"server_tool_use":{"web_search_requests":{},"web_fetch_requests":3},'
            b'"iterations":[1,{"type":7,"output_tokens":true,"input_tokens":5}],"service_tier":1,"speed":"a\\nb"}'
        ),
        Usage(
            output_tokens=9,
            cache_creation=CacheCreation(None, 2),
            server_tool_use=ServerToolUse(None, 3),
            iterations=(Iteration(None, None, 5),),
        ),
    ),
    "tools of the future": (
        b'{"server_tool_use":{"web_search_requests":1,"new_tool_requests":4,"other":{"a_requests":1},"a":7}}',
        Usage(server_tool_use=ServerToolUse(1, None, {"new_tool_requests": 4})),
    ),
    "an upstream cannot call its count an estimate": (b'{"output_tokens":9,"estimated":true}', Usage(None, 9)),
    "a surrogate in a name": (b'{"output_tokens":9,"service_tier":"\\ud800"}', Usage(None, 9)),
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


def test_a_later_report_adds_and_never_takes_away() -> None:
    assert Usage(1, 2, 3, 4).updated(Usage()) == Usage(1, 2, 3, 4)
    assert Usage().updated(Usage(1, 2, 3, 4)) == Usage(1, 2, 3, 4)
    assert Usage(1, 2, None, 4).updated(Usage(0, None, 5, 3)) == Usage(1, 2, 5, 4)
    first = Usage(
        cache_creation=CacheCreation(5, None),
        output_tokens_details=OutputTokensDetails(4),
        server_tool_use=ServerToolUse(3, None, {"a_requests": 2}),
        service_tier="standard",
    )
    later = Usage(
        cache_creation=CacheCreation(0, 7),
        output_tokens_details=OutputTokensDetails(),
        server_tool_use=ServerToolUse(2, 1, {"a_requests": 1, "b_requests": 1}),
        service_tier="priority",
    )
    assert first.updated(later) == Usage(
        cache_creation=CacheCreation(5, 7),
        output_tokens_details=OutputTokensDetails(4),
        server_tool_use=ServerToolUse(3, 1, {"a_requests": 2, "b_requests": 1}),
        service_tier="priority",
    )


def test_a_report_with_iterations_replaces_the_counts() -> None:
    last = Usage(
        181, 8, 0, 0, iterations=(Iteration("compaction", None, 100, 83, 0, 55_096), Iteration("message", None, 181, 8))
    )
    assert Usage(100, 7, 0, 55_096, service_tier="standard").updated(last) == msgspec.structs.replace(
        last, service_tier="standard"
    )


_counts = st.none() | st.integers(0, 9)
_usages = st.builds(
    Usage,
    *[_counts] * 4,
    cache_creation=st.none() | st.builds(CacheCreation, _counts, _counts),
    server_tool_use=st.none()
    | st.builds(ServerToolUse, _counts, other=st.dictionaries(st.sampled_from("ab"), st.integers(0, 9))),
    speed=st.none() | st.sampled_from(["fast", "standard"]),
)


@pytest.mark.torture
@examples()
@given(first=_usages, second=_usages, third=_usages)
def test_reports_may_be_merged_in_any_grouping(first: Usage, second: Usage, third: Usage) -> None:
    assert first.updated(second).updated(third) == first.updated(second.updated(third))


@pytest.mark.torture
@examples()
@given(usage=_usages)
def test_the_strict_and_the_lenient_reading_agree(usage: Usage) -> None:
    written = {**msgspec.to_builtins(usage), "server_tool_use": None, "estimated": False}
    strict = usage_of_message(json.dumps({"usage": written}).encode())
    assert strict == msgspec.structs.replace(usage, server_tool_use=None)
    assert usage_of_message(json.dumps({"usage": written, "more": math.nan}).encode()) == strict


@pytest.mark.torture
@examples()
@given(text=st.binary(max_size=40))
def test_arbitrary_bytes_never_raise(text: bytes) -> None:
    assert usage_of_message(text) is None
    usage_of_start(b'{"message":' + text)
    usage_of_message(b'{"usage":{"input_tokens":' + text)
