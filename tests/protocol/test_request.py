"""Decoding a request: invalid JSON, duplicate keys, the spans of values, and splices."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.bodies import body, decode, refusal
from support.counts import examples

from bud_asgi.protocol.errors import GatewayError, InvalidRequest
from bud_asgi.protocol.fields import FIELDS
from bud_asgi.protocol.request import LARGE_BODY, MAX_KEYS, MAX_UNKNOWN, check_unknown_size, decode_request

NOT_VALID = "The request body is not valid JSON: "

MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Input data was truncated"),
    "only whitespace": (b" \n", "Input data was truncated"),
    "null": (b"null", "expected object, got null"),
    "a number": (b"1", "expected object, got int"),
    "a fraction": (b"1.5", "expected object, got float"),
    "a string": (b'"a"', "expected object, got str"),
    "a boolean": (b"true", "expected object, got bool"),
    "an array": (b"[]", "expected object, got array"),
    "an array without end": (b"[" * 100_000, "expected object, got array"),
    "a form": (b"model=m", "invalid character (byte 0)"),
    "a byte order mark": (b"\xef\xbb\xbf" + body(), "invalid character (byte 0)"),
    "a leading NUL": (b"\x00" + body(), "invalid character (byte 0)"),
    "UTF-16": (body().decode().encode("utf-16-le"), "object keys must be strings (byte 1)"),
    "a missing brace": (body()[:-1], "Input data was truncated"),
    "an end inside a key": (b'{"mod', "Input data was truncated"),
    "an end inside an escape": (b'{"mod\\', "Input data was truncated"),
    "trailing text": (body() + b"x", "trailing characters (byte 45)"),
    "a second object": (body() + body(), "trailing characters (byte 45)"),
    "NaN": (body(b',"x":NaN'), "invalid character (byte 48)"),
    "Infinity": (body(b',"x":Infinity'), "invalid character (byte 48)"),
    "minus Infinity": (body(b',"x":-Infinity'), "invalid character (byte 49)"),
    "a Python boolean": (body(b',"stream":True'), "invalid character (byte 53)"),
    "a leading zero": (body(b',"x":01'), "invalid number (byte 49)"),
    "a leading plus": (body(b',"x":+1'), "invalid character (byte 48)"),
    "a leading decimal point": (body(b',"x":.5'), "invalid character (byte 48)"),
    "a trailing decimal point": (body(b',"x":1.'), "invalid number (byte 50)"),
    "an empty exponent": (body(b',"x":1e'), "invalid number (byte 50)"),
    "a bare minus": (body(b',"x":-'), "invalid character (byte 49)"),
    "an underscore in a number": (body(max_tokens=b"1_0"), "expected ',' or '}' (byte 43)"),
    "a trailing comma": (body(b","), "trailing comma in object (byte 44)"),
    "a key that is a number": (body(b",1:2"), "object keys must be strings (byte 44)"),
    "a key in single quotes": (body(b",'a':2"), "object keys must be strings (byte 44)"),
    "a comment": (body(b"/*x*/"), "expected ',' or '}' (byte 43)"),
    "a form feed between values": (body(b"\x0c"), "expected ',' or '}' (byte 43)"),
    "a control character in a key": (body(b',"a\x01":1'), "invalid character (byte 46)"),
    "a control character in the model": (body(model=b'"a\x01b"'), "invalid character (byte 11)"),
    "a line break in the model": (body(model=b'"a\nb"'), "invalid character (byte 11)"),
    "a control character in a nested string": (body(messages=b'[{"a":"\x1f"}]'), "invalid character (byte 31)"),
    "an unknown escape in the model": (body(model=b'"\\q"'), "invalid escaped character (byte 11)"),
    "an unknown escape in a nested string": (body(messages=b'[{"a":"\\q"}]'), "invalid escaped character (byte 32)"),
    "a broken escape in a nested string": (
        body(messages=b'[{"a":"\\u12"}]'),
        "invalid character in unicode escape (byte 36)",
    ),
    "a lone surrogate in the model": (body(model=b'"\\ud83d"'), "unexpected end of hex escape (byte 16)"),
    "a lone surrogate at the top": (body(b',"system":"\\ud83d"'), "Input data was truncated"),
    "a lone surrogate in a key": (body(b',"\\ud83d":1'), "Input data was truncated"),
    "a lone low surrogate": (body(model=b'"\\ude00xxxxxx"'), "invalid utf-16 surrogate pair (byte 16)"),
    "a lone surrogate in a nested string": (
        body(messages=b'[{"a":"\\ud83d"}]'),
        "unexpected end of hex escape (byte 37)",
    ),
    "a raw byte in a key": (body(b',"\xff":1'), "it is not UTF-8 (invalid start byte)"),
    "a raw byte in the model": (body(model=b'"\xff"'), "it is not UTF-8 (invalid start byte)"),
    "a raw byte in a nested string": (body(messages=b'[{"a":"\xff"}]'), "it is not UTF-8 (invalid start byte)"),
    "a raw byte in a nested key": (body(messages=b'[{"\xc3":1}]'), "it is not UTF-8 (invalid continuation byte)"),
    "an end inside a character": (body()[:-1] + b',"a":"\xe2\x82', "it is not UTF-8 (unexpected end of data)"),
    "arrays 100,000 deep": (body(messages=b"[" * 100_000 + b"]" * 100_000), "it is nested too deeply"),
    "objects 100,000 deep": (body(b',"a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "it is nested too deeply"),
    "arrays that never end": (body(messages=b"[" * 100_000), "it is nested too deeply"),
}


@pytest.mark.parametrize(("sent", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_not_a_json_object_is_refused_with_the_reason(sent: bytes, reason: str) -> None:
    assert refusal(sent) == NOT_VALID + reason


@pytest.mark.parametrize("cut", range(1, 8))
def test_invalid_utf_8_is_refused_wherever_it_is_cut(cut: int) -> None:
    sent = body(messages=b'[{"a":"\xe2\x82\x28"}]')
    at = sent.index(b"\xe2") - 3 + cut
    assert refusal(sent[:at], sent[at:]) == NOT_VALID + "it is not UTF-8 (invalid continuation byte)"


@pytest.mark.parametrize("sent", [b" " + body(), body() + b" \n\r\t", b"\n" + body() + b"\n"])
def test_whitespace_around_the_object_is_ignored(sent: bytes) -> None:
    request = decode(sent)
    assert request.body is sent
    assert (request.model, request.max_tokens, request.stream) == ("m", 1, False)


ACCEPTED: dict[str, bytes] = {
    "a number beyond the range of floats": body(b',"x":1e400'),
    "an escaped slash in a key": body(b',"a\\/b":1'),
    "an empty key": body(b',"":1'),
    "an escaped pair in a key": body(b',"\\ud83d\\ude00":1'),
    "a key with quotes and backslashes": body(b',"a\\"b\\\\":1'),
    "equal keys in nested objects": body(messages=b'[{"a":1,"a":2}]'),
    "a nested key of the name of a top one": body(messages=b'[{"model":"x","messages":[],"max_tokens":1}]'),
    "a string that looks like a key": body(b',"a":"\\",\\"model\\":\\"x"'),
    "nested 600 deep": body(messages=b'[{"a":' + b"[" * 600 + b"]" * 600 + b"}]"),
    "an escaped key of a known field": b'{"mod\\u0065l":"m","messages":[{}],"max_tokens":1}',
}


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_unusual_but_valid_json_is_accepted(sent: bytes) -> None:
    request = decode(sent)
    assert request.model == "m"
    expected: dict[str, Any] = json.loads(sent)
    assert {name: json.loads(request.body[a:b]) for name, (a, b) in request.spans.items()} == expected


def duplicate(name: str) -> str:
    return NOT_VALID + f"the key {name!r} appears more than once"


DUPLICATES: dict[str, tuple[bytes, str]] = {
    "with an equal value": (body(b',"model":"m"'), duplicate("model")),
    "with another value": (body(b',"model":"other"'), duplicate("model")),
    "escaped": (body(b',"mod\\u0065l":"m"'), duplicate("model")),
    "escaped, with another value": (body(b',"mod\\u0065l":"other"'), duplicate("model")),
    "the first one escaped": (b'{"mod\\u0065l":"m","messages":[{}],"max_tokens":1,"model":"m"}', duplicate("model")),
    "side by side": (b'{"model":"m","model":"m","messages":[{}],"max_tokens":1}', duplicate("model")),
    "three times": (body(b',"a":1,"a":1,"a":1'), duplicate("a")),
    "an empty key": (body(b',"":1,"":2'), duplicate("")),
    "an unknown key": (body(b',"new":1,"new":1'), duplicate("new")),
    "a non-ASCII key": (body(',"é":1,"\\u00e9":1'.encode()), duplicate("é")),
    "a long key": (body(b',"%b":1,"%b":1' % (b"k" * 500, b"k" * 500)), duplicate("k" * 100)),
    "the later value as long as the nested one between": (
        b'{"max_tokens":1,"messages":[{"z":1      ,"messages":5}],"model":"m","max_tokens":123456789012}',
        duplicate("max_tokens"),
    ),
    "the later value a key and value of the nested one": (
        b'{"a":1,"messages":[{"z":1      ,"b":5}],"model":"m","max_tokens":1,"a":123456789012}',
        duplicate("a"),
    ),
    "the later value the beginning of the first": (
        b'{"model":"m","max_tokens":12,"messages":[{}],"max_tokens":1}',
        NOT_VALID + "a key appears more than once",
    ),
    "the later value the beginning of the first, at the end": (
        b'{"model":"m","messages":[{}],"max_tokens":99999,"max_tokens":9}',
        NOT_VALID + "a key appears more than once",
    ),
    "the same in an unknown field": (
        body(b',"x":-1.5e3, "x" : -1.5 '),
        NOT_VALID + "a key appears more than once",
    ),
    "side by side before a key of that value": (body(b',"a":1,"a":1,"b":1'), duplicate("a")),
    "the first value the beginning of the later": (
        b'{"model":"m","max_tokens":1,"messages":[{}],"max_tokens":12}',
        duplicate("max_tokens"),
    ),
    "the duplicate is named before a missing field": (b'{"a":1,"a":1}', duplicate("a")),
    "the duplicate is named before a wrong one": (b'{"model":1,"model":"m"}', duplicate("model")),
}


@pytest.mark.parametrize(("sent", "message"), DUPLICATES.values(), ids=DUPLICATES.keys())
def test_a_duplicate_key_is_refused(sent: bytes, message: str) -> None:
    assert refusal(sent) == message


def many_keys(number: int) -> bytes:
    return b"".join(b',"k%d":%d' % (index, index) for index in range(number))


def test_a_body_may_have_a_thousand_keys() -> None:
    assert len(decode(body(many_keys(MAX_KEYS - 3))).spans) == 1000


def test_a_body_with_1001_keys_is_refused() -> None:
    assert refusal(body(many_keys(MAX_KEYS - 2))) == NOT_VALID + "it has more than 1000 keys"


OUTSIDE = NOT_VALID + "more than 1048576 bytes lie outside the known fields or in duplicate keys"
TOO_MUCH_UNKNOWN: dict[str, Callable[[], bytes]] = {
    "hundreds of thousands of keys": lambda: body(many_keys(300_000)),
    "a million equal keys": lambda: body(b',"k":1' * 1_000_000),
    "one unknown field": lambda: body(b',"new":"%b"' % (b"x" * (MAX_UNKNOWN + 1))),
    "blanks": lambda: body(b" " * (MAX_UNKNOWN + 1)),
    "a known field twice": lambda: body(b',"system":"%b","system":""' % (b"x" * (MAX_UNKNOWN + 1))),
    "the model a hundred thousand times": lambda: body(b',"model":"m"' * 100_000),
}
"""Made when they are needed: every worker imports this."""


@pytest.mark.parametrize("make", TOO_MUCH_UNKNOWN.values(), ids=TOO_MUCH_UNKNOWN.keys())
def test_a_large_body_with_a_megabyte_outside_the_known_fields_is_refused(make: Callable[[], bytes]) -> None:
    sent = make()
    assert len(sent) > LARGE_BODY
    assert refusal(sent) == OUTSIDE


def test_the_unknown_size_is_counted_to_the_byte() -> None:
    known = b',"system":"%b"' % (b"x" * LARGE_BODY)
    outside = len(body(known)) - (len(b'"m"') + len(b"[{}]") + len(b"1") + LARGE_BODY + 2)
    exact = body(known + b" " * (MAX_UNKNOWN - outside))
    check_unknown_size(exact)
    with pytest.raises(InvalidRequest) as refused:
        check_unknown_size(exact + b" ")
    assert str(refused.value) == OUTSIDE


def test_the_unknown_size_of_a_small_body_is_not_checked() -> None:
    check_unknown_size(b"\xff" * LARGE_BODY)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b" " * (LARGE_BODY + 1), "Input data was truncated"),
        (b"[" + b" " * LARGE_BODY + b"]", "expected object, got array"),
        (body() + b" " * LARGE_BODY + b"x", f"trailing characters (byte {45 + LARGE_BODY})"),
        (body(messages=b"[" * (LARGE_BODY + 1)), "it is nested too deeply"),
    ],
    ids=["blanks", "an array", "trailing text", "too deep"],
)
def test_a_large_body_that_is_not_a_json_object_is_refused_by_the_size_check(sent: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_unknown_size(sent)
    assert str(refused.value) == NOT_VALID + reason


def test_a_large_body_of_known_fields_passes() -> None:
    text = b'[{"role":"user","content":"%b"}]' % (b"x" * (3 * LARGE_BODY))
    request = decode(body(messages=text))
    assert request.value("messages") == text


def test_a_missing_value_is_none() -> None:
    assert decode(body()).value("system") is None


def test_replacing_the_model_changes_and_copies_no_other_byte() -> None:
    sent = b' { "messages" : [ { } ] ,\n"model"\t:\r\n"m" , "max_tokens" : 1e2 } '
    parts = decode(sent).with_value("model", b'"other"')
    assert b"".join(parts) == b' { "messages" : [ { } ] ,\n"model"\t:\r\n"other" , "max_tokens" : 1e2 } '
    assert [isinstance(part, memoryview) and part.obj is sent for part in parts] == [True, False, True]


_blanks = st.text(" \t\n\r", max_size=3)
_names = st.one_of(st.sampled_from(sorted(FIELDS)), st.text(max_size=4), st.sampled_from(["models", "Model", "a", ""]))
_whole = st.integers(-(10**30), 10**30).map(str)
_numbers = st.one_of(
    _whole, st.sampled_from(["0", "-0", "1e2", "1E+2", "0.1e-3", "1e400", "-1.5", "123456789012345678901234567890"])
)

_alike = st.sampled_from(["1", "12", "12.5", "12.5e1", "123"])  # each the beginning of others


def _escaped(text: str, escape: list[bool]) -> str:
    """A JSON string, with some of its letters as escapes."""
    letters = list(text)
    flags = escape + [False] * (len(letters) - len(escape))
    parts = [
        json.dumps(letter)[1:-1] if flag or letter in '"\\' or letter < " " else letter
        for letter, flag in zip(letters, flags, strict=False)
    ]
    parts = [
        f"\\u{ord(part):04x}" if flag and len(part) == 1 and ord(part) < 0x80 else part
        for part, flag in zip(parts, flags, strict=False)
    ]
    return '"' + "".join(parts) + '"'


_letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_strings = st.builds(_escaped, _letters, st.lists(st.booleans(), max_size=8))


def _arrays(items: list[str], blank: str) -> str:
    return "[" + blank + ("," + blank).join(items) + blank + "]"


def _objects(items: list[tuple[str, str]], blank: str) -> str:
    return "{" + blank + ("," + blank).join(f"{key}{blank}:{blank}{value}" for key, value in items) + blank + "}"


_values = st.recursive(
    st.one_of(_numbers, _strings, st.sampled_from(["true", "false", "null"])),
    lambda inner: st.one_of(
        st.builds(_arrays, st.lists(inner, max_size=3), _blanks),
        st.builds(_objects, st.lists(st.tuples(_strings, inner), max_size=3), _blanks),
    ),
    max_leaves=6,
)


@st.composite
def bodies(draw: st.DrawFn, *, repeat: bool = False) -> bytes:
    """Valid bodies, in any order, form and spacing; with `repeat`, any key may be repeated."""
    fields: list[tuple[str, str]] = [
        ("model", draw(st.builds(_escaped, st.text('abcé-"\\', min_size=1, max_size=8), st.lists(st.booleans())))),
        ("messages", "[" + draw(_blanks) + "{}" + draw(st.sampled_from(["", ",1", " , {}"])) + "]"),
        ("max_tokens", draw(st.sampled_from(["1", "0", "1e2", "1024.0", "12345678901234567890123456789012"]))),
    ]
    if draw(st.booleans()):
        fields.append(("stream", draw(st.sampled_from(["true", "false"]))))
    known = {*FIELDS, "model"}
    name = st.text(max_size=4).filter(lambda name: name not in known)
    more = draw(st.lists(st.tuples(name, _values | _alike), max_size=5))
    fields += more if repeat else list(dict(more).items())
    if repeat:
        again = st.tuples(st.sampled_from([name for name, _ in fields]), _values | _alike)
        fields += draw(st.lists(again | st.sampled_from(fields), max_size=2))
    order = draw(st.permutations(fields))
    blank = draw(_blanks)
    written: list[tuple[str, str]] = [
        (_escaped(name, draw(st.lists(st.booleans(), max_size=6))), value) for name, value in order
    ]
    return (draw(_blanks) + _objects(written, blank) + draw(_blanks)).encode("utf-8", "surrogatepass")


def _no_constants(text: str) -> Any:
    raise ValueError(text)


def _pairs(sent: bytes) -> list[tuple[str, Any]]:
    """The top level as Python reads it, with duplicate keys."""
    levels: list[list[tuple[str, Any]]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        levels.append(pairs)
        return dict(pairs)

    json.loads(sent, object_pairs_hook=keep, parse_constant=_no_constants)
    return levels[-1]


@pytest.mark.torture
@examples()
@given(sent=bodies())
def test_spans_point_at_exactly_the_bytes_of_each_value(sent: bytes) -> None:
    request = decode(sent)
    expected: dict[str, Any] = json.loads(sent)
    assert {name: json.loads(sent[a:b]) for name, (a, b) in request.spans.items()} == expected
    for start, end in request.spans.values():
        assert sent[start:end] == sent[start:end].strip(b" \t\n\r")
    assert request.model == expected["model"]
    assert request.max_tokens == expected["max_tokens"]
    assert request.stream is expected.get("stream", False)


@pytest.mark.torture
@examples()
@given(sent=bodies(), model=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_splice_differs_only_in_the_model(sent: bytes, model: str) -> None:
    request = decode(sent)
    text = json.dumps(model).encode()
    spliced = b"".join(request.with_value("model", text))
    expected: dict[str, Any] = json.loads(sent)
    assert json.loads(spliced) == {**expected, "model": model}
    start, end = request.spans["model"]
    assert spliced == sent[:start] + text + sent[end:]
    assert list(json.loads(spliced)) == list(expected)


@pytest.mark.torture
@examples()
@given(sent=bodies(repeat=True))
def test_a_body_is_refused_exactly_if_python_sees_a_duplicate_key(sent: bytes) -> None:
    names = [name for name, _ in _pairs(sent)]
    if len(set(names)) < len(names):
        assert refusal(sent).endswith("appears more than once")
    else:
        assert list(decode(sent).spans) == names


def _check_as_python_reads_it(sent: bytes) -> None:
    """A body is either refused with a `GatewayError` or read as Python reads it."""
    try:
        request = decode(sent)
    except GatewayError:
        return
    assert sent.decode().encode() == sent
    pairs = _pairs(sent)
    seen = dict(pairs)
    assert len(seen) == len(pairs)
    assert list(request.spans) == list(seen)
    assert request.model == seen["model"]
    assert request.max_tokens == seen["max_tokens"]
    assert request.stream is seen.get("stream", False)
    assert isinstance(seen["messages"], list)
    assert isinstance(seen["messages"][0], dict)
    assert 0 < len(request.model) <= 256


@pytest.mark.torture
@examples(40)
@given(sent=st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_or_read_as_python_reads_them(sent: bytes) -> None:
    _check_as_python_reads_it(sent)


_BASES = [
    body(),
    body(b',"stream":true,"system":"\\u00e9 \xc3\xa9","temperature":0.5,"x":{"model":"y"}'),
    b' { "mod\\u0065l" : "a\\"b" , "messages":[ {"a":[1,2]} ] ,"max_tokens":12,"x":1 } ',
]
_EDITS = st.tuples(
    st.integers(0, 120),
    st.integers(0, 4),
    st.one_of(
        st.binary(max_size=3),
        st.sampled_from(
            [b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"1", b"e", b"-", b" ", b"\xe2", b"\x00", b"\\u0065"]
        ),
        st.sampled_from([b'"model":"m",', b',"x":1', b'"max_tokens":1,', b"null", b"NaN", b"\\ud83d"]),
    ),
)


@pytest.mark.torture
@examples(50, 60_000)
@given(base=st.sampled_from(_BASES), edits=st.lists(_EDITS, min_size=1, max_size=4))
def test_a_mutated_body_is_refused_or_read_as_python_reads_it(base: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    sent = bytearray(base)
    for at, length, new in edits:
        sent[at : at + length] = new
    _check_as_python_reads_it(bytes(sent))


@pytest.mark.torture
@examples(40)
@given(base=st.sampled_from(_BASES), at=st.integers(0, 120), byte=st.integers(0, 255))
def test_one_byte_added_removed_or_changed_never_raises_anything_else(base: bytes, at: int, byte: int) -> None:
    assume(at < len(base))
    for sent in (base[:at] + base[at + 1 :], base[:at] + bytes([byte]) + base[at:], base[:at] + base[at + 1 :]):
        _check_as_python_reads_it(sent)
    _check_as_python_reads_it(base[:at] + bytes([byte]) + base[at + 1 :])


@pytest.mark.torture
@examples()
@given(text=st.binary(max_size=4))
def test_a_body_with_unchecked_utf_8_never_raises_anything_else(text: bytes) -> None:
    for sent in (body(model=b'"a%b"' % text), body(b',"%b":1' % text), body(messages=b'[{"a":"%b"}]' % text)):
        with contextlib.suppress(InvalidRequest):
            decode_request(sent)
