"""Locating values by length: compact bodies, and bodies that only seem compact, give the same result as the walk."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bodies import body, decode
from support.counts import examples

from bud_asgi.protocol import request as messages
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.request import _locate, _walk

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def verdicts(sent: bytes) -> tuple[Any, Any]:
    """The result by length and the result of the walk alone: the spans, or the error message."""
    found: list[Any] = []
    for locate in (_locate, _walk):
        try:
            found.append(list(locate(sent, _decode(sent)).items()))
        except InvalidRequest as refused:
            found.append(str(refused))
    return found[0], found[1]


KEYS = (b',"\\u0061":1', ',"é":1'.encode())
"""Fields whose keys are not written as they are counted."""


def test_a_compact_body_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(_body: bytes, _fields: object) -> Any:
        raise AssertionError("it was walked")

    monkeypatch.setattr(messages, "_walk", walk)
    compact = body(',"new":1,"system":"a b é€😀 \\" \\u0041","":[ {} , 1 ]'.encode())
    assert decode(compact).value("new") == b"1"
    assert decode(compact).value("") == b"[ {} , 1 ]"
    for other in (compact + b" ", b"\n" + compact, compact.replace(b",", b", ", 1), *map(body, KEYS)):
        with pytest.raises(AssertionError, match="it was walked"):
            decode(other)


EVEN: dict[str, bytes] = {
    "a duplicate with equal values": b'{"a":1,"a":1}',
    "a short value last": b'{"a":"xxxxxxx","a":1}',
    "a long value last": b'{"a":1,"a":"xxxxxxx"}',
    "a value as long as the pair before it": b'{"a":1,"a":12345,"b":2}',
    "a value as long as two pairs": b'{"a":1,"a":1,"a":1234567890123}',
    "a key of another form": b'{"a":1,"\\u0061":1234567890}',
    "an empty key": b'{"":1,"":1}',
    "an empty object": b"{}",
    "an empty object with a space": b"{ }",
    "trailing whitespace": b'{"a":1} \n',
    "an escape as long as a character": b'{"\\n":1,"\\"":2,"\\\\":3}',
    "a character of two bytes, escaped and not": '{"é":1,"\\u00e9":1}'.encode(),
    "a pair of surrogates": b'{"\\ud83d\\ude00":1}',
    "a line separator": '{"\u2028":1}'.encode(),
    "a nul": b'{"\\u0000":1}',
    "a space after a number": b'{"a":1 ,"b":2}',
    "a space before a value": b'{"a": 1}',
    "spaces within a value": b'{"a":[ 1 , { } ]}',
    "a nested duplicate": b'{"a":{"b":1,"b":1}}',
}


@pytest.mark.parametrize("sent", EVEN.values(), ids=EVEN.keys())
def test_both_ways_give_the_same_result(sent: bytes) -> None:
    by_length, by_walk = verdicts(sent)
    assert by_length == by_walk


_blank = st.sampled_from(["", "", "", " ", "\n", "\t\r\n"])
_key = st.sampled_from(["a", "b", "", "é", "€", "😀", "\n", '"', "\\", "aa", "\u2028", "\x7f", "a b", "k" * 30])
_value = st.sampled_from(
    ["1", "12", "-1.5e3", '""', '"a"', '"\\u0061"', '"é"', '"\\\\"', "null", "{}", "[ ]", '{"a":1,"a":1}', '[{"b": 2}]']
)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Objects of few keys and values, so that lengths coincide; duplicate keys, escapes and whitespace anywhere."""
    written: list[str] = []
    for key, value in draw(st.lists(st.tuples(_key, _value), max_size=5)):
        name = json.dumps(key, ensure_ascii=draw(st.booleans()))
        if draw(st.integers(0, 4)) == 0:
            name = '"' + "".join(json.dumps(c)[1:-1] if c > "~" else f"\\u{ord(c):04x}" for c in key) + '"'
        written.append(draw(_blank) + name + draw(_blank) + ":" + draw(_blank) + value + draw(_blank))
    text = draw(_blank) + "{" + ",".join(written) + ("" if written else draw(_blank)) + "}" + draw(_blank)
    return text.encode()


@pytest.mark.torture
@examples(40, 100_000)
@given(objects())
def test_every_object_is_located_as_by_the_walk(sent: bytes) -> None:
    by_length, by_walk = verdicts(sent)
    assert by_length == by_walk
    pairs: list[tuple[str, Any]] = json.loads(sent, object_pairs_hook=lambda read: read)
    names = [name for name, _ in pairs]
    assert isinstance(by_length, str) == (len(set(names)) < len(names))
    if not isinstance(by_length, str):
        assert [
            (name, json.loads(sent[a:b], object_pairs_hook=lambda read: read)) for name, (a, b) in by_length
        ] == pairs


_edits = st.tuples(
    st.integers(0, 60), st.integers(0, 3), st.sampled_from([b"", b" ", b'"', b"\\", b",", b":", b"1", b"}", b"\xc3"])
)


@pytest.mark.torture
@examples(50, 100_000)
@given(sent=objects(), edits=st.lists(_edits, min_size=1, max_size=3))
def test_every_valid_random_edit_is_located_as_by_the_walk(sent: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for place, gone, put in edits:
        sent = sent[:place] + put + sent[place + gone :]
    try:
        by_length, by_walk = verdicts(sent)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert by_length == by_walk
