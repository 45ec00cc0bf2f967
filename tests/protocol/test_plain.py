"""The one-pass decode of common bodies: where it accepts, it reads exactly what the walk over all values reads."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bodies import body
from support.counts import examples

from bud_asgi.protocol import request as messages
from bud_asgi.protocol.account_fields import account_field
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.fields import FIELDS
from bud_asgi.protocol.named_models import named_models
from bud_asgi.protocol.plain import MAX_PLAIN, MAX_SPACED, PLAIN_FIELDS
from bud_asgi.protocol.request import MessagesRequest, decode_request


def by_walk(sent: bytes, *, counting: bool, others: bool = False) -> MessagesRequest:
    """Decode without the shortcut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "MAX_PLAIN", -1)
        return decode_request(sent, counting=counting, others=others)


def check_as_by_walk(sent: bytes, *, counting: bool = False, others: bool = False) -> bool:
    """Check that both ways agree; return whether the shortcut was taken."""
    try:
        walked = by_walk(sent, counting=counting, others=others)
    except InvalidRequest as refused:
        with pytest.raises(InvalidRequest, match=f"^{re.escape(str(refused))}$"):
            decode_request(sent, counting=counting, others=others)
        return False
    request = decode_request(sent, counting=counting, others=others)
    for name in ("body", "spans", "model", "max_tokens", "stream", "counting", "violation"):
        assert getattr(request, name) == getattr(walked, name), name
    if request.is_plain:
        assert [model for model in named_models(walked) if model is not None] == []
        assert [name for name in walked.spans if account_field(name)] == []
        assert request.spans.keys() <= PLAIN_FIELDS
    return request.is_plain


PLAIN: dict[str, bytes] = {
    "the required fields": body(),
    "whitespace between tokens": body(b', "top_k" : 1'),
    "as Python writes it": json.dumps(
        {"model": "m", "max_tokens": 1, "messages": [{}], "stop_sequences": ["é", "1"]}
    ).encode(),
    "many lines": json.dumps({"messages": [{"role": "user"}], "model": "m", "max_tokens": 1}, indent=2).encode(),
    "whitespace around": b"\t\r\n " + body() + b"\n",
    "whitespace within a message": body(messages=b'[{ "role" : "user" }]'),
    "text beyond ASCII": body(',"system":"é€😀\u2028"'.encode()),
    "an escape beyond ASCII in a message": body(messages=rb'[{"content":"\u00e9\ud83d\ude00"}]'),
    "escapes that have no shorter form": body(rb',"system":"\n\t\"\\"'),
    "a word like a key": body(messages=rb'[{"role":"user","content":"\"model\": a models"}]'),
    "every bounded number": body(b',"temperature":0.5,"top_p":1,"top_k":7'),
    "every other field": body(
        b',"stream":true,"system":[{"type":"text"}],"stop_sequences":["a"],"metadata":{"a":1.50},"tools":[{"name":"a"}],'
        b'"tool_choice":{"type":"auto"},"thinking":{"type":"adaptive"},"output_config":{},"output_format":null,'
        b'"cache_control":{},"diagnostics":{},"context_management":null'
    ),
}


@pytest.mark.parametrize("sent", PLAIN.values(), ids=PLAIN.keys())
@pytest.mark.parametrize("counting", [False, True])
def test_a_common_body_is_plain(sent: bytes, *, counting: bool) -> None:
    assert check_as_by_walk(sent, counting=counting)


def test_every_known_field_of_the_right_kind_may_be_plain() -> None:
    values = {"string": '"a"', "object": "{}", "array": "[{}]", "boolean": "true", "number": "1"}
    for name, field in FIELDS.items():
        fields = {"model": '"m"', "messages": "[{}]", "max_tokens": "1", name: values[field.kinds[-1]]}
        sent = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
        assert check_as_by_walk(sent.encode()) is (name in PLAIN_FIELDS), name


NOT_PLAIN: dict[str, bytes] = {
    "a duplicate among whitespace": body(b', "max_tokens": 1'),
    "a duplicate as long as whitespace": body(b',"top_k":1,"top_k":1', max_tokens=b" 1" + b" " * 10),
    "whitespace within a number": body(max_tokens=b"1 0"),
    "whitespace and a longer form": body(max_tokens=b" 1e3"),
    "a number in a longer form": body(max_tokens=b"1e3"),
    "a duplicate as long as what a longer form saves": body(b',"top_k":1', max_tokens=b"1e12"),
    "a negative zero": body(max_tokens=b"-0"),
    "more digits than a machine word": body(max_tokens=b"9" * 30),
    "an escaped slash": body(rb',"system":"\/"'),
    "an escaped letter": body(rb',"system":"\u00e9"'),
    "an escaped key": body(messages=rb'[{"\u006dodel":"x"}]'),
    "an escaped key of another case": body(messages=rb'[{"\u004DODEL":"x"}]'),
    "a key of another case": body(messages=b'[{"Model":"x"}]'),
    "a key named model": body(b',"tools":[{"model":"x"}]'),
    "an account field": body(b',"speed":"fast"'),
    "an unknown field": body(b',"new":1'),
    "a large body": body(b',"system":"%b"' % (b"x" * MAX_PLAIN)),
    "a larger body with whitespace": body(b', "system":"%b"' % (b"x" * MAX_SPACED)),
    "no limit": b'{"model":"m","messages":[{}]}',
    "a temperature of null": body(b',"temperature":null'),
    "a temperature out of bounds": body(b',"temperature":1.01'),
    "a temperature that is a string": body(b',"top_p":"0.5"'),
    "no message": body(messages=b"[]"),
    "a message that is a string": body(messages=b'["a"]'),
    "a model of 257 characters": body(model=b'"%b"' % (b"m" * 257)),
    "an empty model": body(model=b'""'),
    "equal keys within an object": body(b',"metadata":{"a":1,"a":1}'),
}


@pytest.mark.parametrize("sent", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_any_other_body_is_walked(sent: bytes) -> None:
    assert not check_as_by_walk(sent)


_numbers = ["0", "1", "12", "0.5", "1.0", "1e0", "1e3", "1e12", "1e-9", "-0", "-1", "1.5", "9" * 19, "9" * 30, "1e400"]
_strings = ["", "a", "m" * 256, "m" * 257, r"\n", r"\/", r"\u0061", r"\u000a", r"\b", r"\ud83d\ude00", "é", "€😀"]
_keys = [*FIELDS, "Model", r"mod\u0065l", "max-tokens", "new", "é", "", r"\n"]
_scalar = st.one_of(
    st.sampled_from(_numbers), st.sampled_from(_strings).map('"{}"'.format), st.sampled_from(["true", "false", "null"])
)
_key = st.one_of(st.sampled_from(sorted(PLAIN_FIELDS)), st.sampled_from(_keys))
_nested = st.sampled_from(["a", "type", "model", "Model", r"\u006dodel", "tool", "content", r"\/"])
_kind = st.sampled_from(["tool_addition", r"tool_\u0061ddition", "tool_definition", "text", "advisor_20260301"])


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}"


_value = st.recursive(
    st.one_of(_scalar, _kind.map('"{}"'.format)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(st.tuples(_nested, inner), max_size=3).map(_object),
    ),
    max_leaves=8,
)


_tame = st.sampled_from(['"a"', '"é"', "1", "null", "{}", "[]", '{"type":"text"}', r'"\n"'])
_inner = st.one_of(_tame, _tame, _tame, _value)
_of_kind: dict[str, st.SearchStrategy[str]] = {
    "string": st.sampled_from(["", "a", "b", "é", *_strings]).map('"{}"'.format),
    "number": st.sampled_from(["0", "1", "0.5", "1e0", "1e-9", "-0", "7", "1"]),
    "boolean": st.sampled_from(["true", "false"]),
    "array": st.lists(_inner, max_size=2).map(lambda items: "[" + ",".join(items) + "]"),
    "object": st.lists(st.tuples(st.sampled_from(["a", "b", "type"]), _inner), max_size=2).map(_object),
}
_fitting = st.sampled_from(sorted(PLAIN_FIELDS - {"messages", "model", "max_tokens"})).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of([_of_kind[kind] for kind in FIELDS[name].kinds]))
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bodies that are nearly plain: any field of any kind, in any form of writing, and now and then a key twice."""
    model = draw(st.sampled_from(['"m"', '"m"', '"é"', r'"\/"', "1"]))
    limit = draw(st.sampled_from(["1", "1024", "1", *_numbers]))
    message = _object([("role", '"user"'), ("content", draw(_inner))])
    required = [("model", model), ("messages", f"[{message}]"), ("max_tokens", limit)]
    more = draw(st.lists(_fitting, max_size=3, unique_by=lambda pair: pair[0]))
    if draw(st.integers(0, 3)) == 0:
        more += draw(st.lists(st.tuples(_key, _value), max_size=2))
    text = _object(draw(st.permutations(required + more)))
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from([" ", '"', "1", ",", "0"])) + text[place:]
    if draw(st.integers(0, 2)) == 0:  # whitespace between the tokens, and now and then within a string
        space = draw(st.sampled_from([" ", "\n\t", "\r"]))
        text = text.replace(",", "," + space).replace(":", ":" + space)
    return text.encode()


@pytest.mark.torture
@examples(60, 200_000)
@given(sent=bodies(), counting=st.booleans(), others=st.booleans())
def test_both_ways_agree_on_every_body(sent: bytes, *, counting: bool, others: bool) -> None:
    check_as_by_walk(sent, counting=counting, others=others)


@pytest.mark.torture
@examples(60, 200_000)
@given(
    st.lists(st.tuples(st.sampled_from(["top_k", "max_tokens", "system", "stop_sequences"]), _scalar), max_size=4),
    st.permutations(["1", "1e9", "1000000000", "10"]),
)
def test_no_form_of_writing_makes_room_for_a_duplicate(more: list[tuple[str, str]], limits: list[str]) -> None:
    fields = [("max_tokens", limits[0]), *more, ("model", '"m"'), ("messages", "[{}]")]
    sent = _object(fields).encode()
    is_plain = check_as_by_walk(sent)
    pairs: list[tuple[str, object]] = json.loads(sent, object_pairs_hook=list)
    assert not is_plain or len({name for name, _ in pairs}) == len(pairs)
