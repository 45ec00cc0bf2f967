"""Bodies of every kind: the valid ones reach the upstream byte for byte, the others get a 400 and reach nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from contract.line import Line, body
from contract.spelled import bodies, fields


def _assert_sent(line: Line, content: bytes) -> None:
    answer = line.request(content)
    assert answer.status == 200, answer.body
    assert line.the_received().body == content


def _assert_refused(line: Line, content: bytes) -> None:
    answer = line.request(content)
    assert answer.assert_error(400, "invalid_request_error")
    assert answer.headers["x-should-retry"] == "false"
    assert not line.received


@pytest.mark.torture
@examples(25, 5000)
@given(content=bodies())
def test_a_valid_body_is_forwarded_unchanged(straight: Line, content: bytes) -> None:
    _assert_sent(straight.reset(), content)


def _without(given: list[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    return [field for field in given if field[0] != name]


def _written(given: list[tuple[str, str]]) -> bytes:
    return ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in given) + "}").encode()


WRONG: dict[str, list[str]] = {
    "model": ["1", "null", '""', "[]", '"' + "m" * 257 + '"'],
    "messages": ["{}", "[]", '"Hello"', "null", "[1]", '["x"]', "[[{}]]"],
    "max_tokens": ["-1", "1.5", '"1"', "true", "null", "1e400", "[]"],
    "stream": ["0", '"true"', "null", "{}"],
    "system": ["1", "{}", "true"],
    "tools": ["{}", '"x"', "1"],
    "metadata": ["[]", "1"],
    "temperature": ["1.01", "-0.1", '"1"', "1e400"],
    "thinking": ["[]", "true"],
}


@pytest.mark.torture
@examples(25, 5000)
@given(given=fields(), data=st.data())
def test_a_field_of_a_wrong_kind_is_refused(straight: Line, given: list[tuple[str, str]], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(WRONG)))
    wrong = (name, data.draw(st.sampled_from(WRONG[name])))
    _assert_refused(straight.reset(), _written([*_without(given, name), wrong]))


@pytest.mark.torture
@examples(25, 5000)
@given(given=fields(), data=st.data())
def test_a_missing_field_or_a_doubled_one_is_refused(
    straight: Line, given: list[tuple[str, str]], data: st.DataObject
) -> None:
    missing = data.draw(st.sampled_from(["model", "messages", "max_tokens"]))
    _assert_refused(straight.reset(), _written(_without(given, missing)))
    doubled = data.draw(st.sampled_from(given))
    _assert_refused(straight.reset(), _written([*given, doubled]))


def _model_of(content: bytes) -> str | None:
    """The model that a request is for, `None` if it is none, by a reading that shares nothing with the gateway's."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        doubled.append(len(pairs) != len(dict(pairs)))
        return dict(pairs)

    def none(name: str) -> None:
        raise ValueError(name)

    doubled: list[bool] = []
    try:
        told: Any = json.loads(content.decode(), object_pairs_hook=once, parse_constant=none)
        json.dumps(told, ensure_ascii=False).encode()  # half a surrogate pair has no bytes
    except ValueError:
        return None
    if not isinstance(told, dict) or doubled[-1]:
        return None
    model, messages, limit = (told.get(name) for name in ("model", "messages", "max_tokens"))
    valid = (
        isinstance(model, str)
        and 0 < len(model) <= 256
        and isinstance(messages, list)
        and bool(messages)
        and isinstance(messages[0], dict)
        and isinstance(limit, int | float)
        and not isinstance(limit, bool)
        and limit >= 0
        and limit == limit // 1
        and isinstance(told.get("stream", False), bool)
    )
    return model if valid else None


PLAIN = body(a='\u00e9\U0001f600 \\ "', b=[0.5, -1e3, None])


@pytest.mark.torture
@examples(30, 8000)
@given(data=st.data())
def test_a_broken_body_is_refused(straight: Line, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PLAIN)))
    gone = data.draw(st.integers(0, 3))
    put = data.draw(
        st.binary(max_size=2) | st.sampled_from([b'"', b"{", b"}", b",", b"\\", b"\\ud83d", b"\xef\xbb\xbf"])
    )
    content = PLAIN[:at] + put + PLAIN[at + gone :]
    line, model = straight.reset(), _model_of(content)
    if model is None:
        _assert_refused(line, content)
    elif model.startswith("claude-"):
        _assert_sent(line, content)
    else:
        assert line.request(content).assert_error(404, "not_found_error") == f"model: {model}"
        assert not line.received


@pytest.mark.torture
@examples(20, 2000)
@given(content=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_other_bytes_than_a_request_are_refused(straight: Line, content: bytes) -> None:
    _assert_refused(straight.reset(), content)


@pytest.mark.torture
@examples(15, 500)
@given(depth=st.integers(1, 200_000), opening=st.sampled_from([b"[", b'{"a":', b'[{"":']))
def test_nesting_is_taken_or_refused(straight: Line, depth: int, opening: bytes) -> None:
    closing = b"".join({b"[": b"]", b"{": b"}"}[bytes([c])] for c in reversed(opening) if c in b"[{")
    content = body()[:-2] + b',"deep":' + opening * depth + b"1" + closing * depth + b"}"
    line = straight.reset()
    answer = line.request(content)
    if answer.status == 200:
        assert line.the_received().body == content
    else:
        assert answer.assert_error(400, "invalid_request_error")
        assert not line.received
