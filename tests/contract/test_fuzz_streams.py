"""Replies of every kind: whole or broken, in pieces of any size, they come through, and their account is right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.counts import examples
from support.streams import parse, usage_by_json, whole_events, without_estimate

from bud_asgi.testing import Reply, json_body, sse
from contract import quirks
from contract.line import PLAIN, STREAM, Line
from contract.spelled import objects

_said = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_pads = st.integers(0, 15)
_between = st.lists(
    st.sampled_from(
        [quirks.PING, quirks.COMMENT, b":\n", quirks.event("weather", sun=True), b"data: [DONE]\n\n", b"id: 7\n\n"]
    ),
    max_size=2,
).map(b"".join)
_counts = st.fixed_dictionaries(
    {"output_tokens": st.integers(0, 10**6)},
    optional={"input_tokens": st.none() | st.integers(0, 10**6), "cache_read_input_tokens": st.integers(0, 9)},
)


@st.composite
def _block(draw: Any, index: int) -> bytes:
    kind = draw(st.sampled_from(["text", "thinking", "tool_use", "hologram"]))
    wire = quirks.opened(index, pad=draw(_pads), type=kind, text="")
    for said in draw(st.lists(_said, max_size=3)):
        wire += quirks.delta(index, f"{kind}_delta", pad=draw(_pads), text=said) + draw(_between)
    return wire + quirks.closed(index, pad=draw(_pads)) + draw(_between)


@st.composite
def streams(draw: Any) -> bytes:
    """A whole stream after the grammar, with what may stand anywhere in every place."""
    wire = draw(_between) + quirks.start(pad=draw(_pads), **draw(_counts)) + draw(_between)
    for index in range(draw(st.integers(0, 3))):
        wire += draw(_block(index))
    for counts in draw(st.lists(_counts, max_size=2)):
        wire += quirks.event("message_delta", delta={}, usage=counts) + draw(_between)
    wire += quirks.ending(pad=draw(_pads), **draw(_counts))
    return wire.replace(b"\n", draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])))


_pieces = st.none() | st.sampled_from([1, 2, 3, 5, 17, 100, 1000])


@pytest.mark.torture
@examples(50, 5000)
@given(wire=streams(), piece=_pieces, segment=_pieces)
def test_a_stream_is_relayed(straight: Line, wire: bytes, piece: int | None, segment: int | None) -> None:
    line = straight.reset()
    line.upstream.enqueue(replace(sse(wire), piece=piece, segment=segment))
    answer = line.request(STREAM)
    assert (answer.status, answer.body) == (200, wire)
    account = line.account_of(answer)
    assert account.outcome == "answered"
    assert without_estimate(account.usage) == usage_by_json(wire)


@pytest.mark.torture
@examples(50, 5000)
@given(wire=streams(), data=st.data(), piece=_pieces, clean=st.booleans())
def test_a_stream_that_is_cut_ends_with_an_error(
    straight: Line, wire: bytes, data: st.DataObject, piece: int | None, clean: bool
) -> None:
    line = straight.reset()
    cut = data.draw(st.integers(1, len(wire)))
    line.upstream.enqueue(replace(sse(wire), piece=piece, cut=cut, end="whole" if clean else "eof"))
    answer = line.request(STREAM)
    before = [name for name, _ in parse(wire[:cut], errors="replace")]
    if set(before) <= {"ping"}:
        assert answer.assert_error(502, "api_error")
        return
    assert answer.status == 200
    whole = whole_events(wire[:cut])
    # A line feed that arrives with the next event, behind the carriage return that ended one, may be held with it.
    assert answer.body.startswith(whole.rstrip(b"\r\n"))
    events = parse(answer.body)
    if "message_stop" in before:
        assert answer.body == whole
    else:
        assert [name for name, _ in events] == [*before, "error"]
        assert json.loads(events[-1][1])["error"]["type"] == "api_error"


@pytest.mark.torture
@examples(30, 5000)
@given(said=objects, piece=_pieces, framing=st.sampled_from(["length", "chunked", "none"]))
def test_a_message_is_relayed(straight: Line, said: str, piece: int | None, framing: Any) -> None:
    line = straight.reset()
    line.upstream.enqueue(replace(json_body(said.encode()), piece=piece, framing=framing))
    answer = line.request(PLAIN)
    assert (answer.status, answer.body) == (200, said.encode())


_strange = st.builds(
    Reply,
    status=st.sampled_from([200, 200, 201, 204, 302, 304, 400, 401, 403, 404, 429, 500, 503, 529, 599]),
    headers=st.lists(
        st.sampled_from(
            [
                ("content-type", "application/json"),
                ("content-type", "text/event-stream"),
                ("content-type", "text/html"),
                ("content-encoding", "gzip"),
                ("location", "/"),
                ("set-cookie", "a=b"),
                ("x-should-retry", "perhaps"),
                ("request-id", "\u00e9"),
            ]
        ),
        max_size=3,
        unique_by=lambda line: line[0],
    ).map(tuple),
    body=st.binary(max_size=60) | objects.map(str.encode) | st.sampled_from([e for _, e in quirks.ERRORS.values()]),
    piece=_pieces,
    framing=st.sampled_from(["length", "chunked", "none"]),
)


@pytest.mark.torture
@examples(40, 5000)
@given(reply=_strange, stream=st.booleans())
def test_whatever_is_answered_becomes_an_answer_or_an_error(straight: Line, reply: Reply, stream: bool) -> None:
    """No 500 of the gateway's own, nothing compressed, no redirect, no cookie."""
    line = straight.reset()
    line.upstream.enqueue(reply)
    answer = line.request(STREAM if stream else PLAIN)
    assert not {"set-cookie", "location", "content-encoding"} & set(answer.headers)
    if ("content-encoding", "gzip") in reply.headers:
        assert answer.assert_error(502, "api_error")
    elif answer.status == 200 and reply.status == 200:
        assert answer.body.startswith(reply.body if isinstance(reply.body, bytes) else b"")
    elif answer.status == reply.status and answer.body != reply.body:
        assert reply.status >= 400
        assert answer.json()["request_id"] == answer.headers["request-id"]
    elif answer.status == reply.status:
        assert answer.body == reply.body
    else:
        told = answer.json()
        assert (answer.status, told["error"]["type"]) == (502, "api_error")
