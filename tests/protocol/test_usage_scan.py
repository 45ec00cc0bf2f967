"""The usage of a message whose body is never held: what a JSON decoder finds, wherever the bytes are cut."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples
from support.streams import cut

from bud_asgi.protocol.usage import Usage, usage_of_message
from bud_asgi.protocol.usage_scan import UsageScanner

TEXTS = [
    'a"usage":{',
    '"usage": {"output_tokens":5}',
    ',"usage":{"output_tokens":5}',
    "\\",
    '\\"',
    '\\\\"',
    "{[}]",
    "",
    "é\n",
    "x" * 90,
]
KEYS = ["usage", "content", 'b"usage', ',"usage', "\\"]
_scalars = st.sampled_from([*TEXTS, 1, -1.5e3, None, True])
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
)
_usages = st.fixed_dictionaries(
    {"input_tokens": st.integers(0, 99), "server_tool_use": st.none() | st.just({"web_search_requests": 2})}
)
_layouts = st.sampled_from([(None, (",", ":")), (None, (", ", ": ")), (1, (",", " : "))])


def scanned(body: bytes, size: int) -> Usage | None:
    scanner = UsageScanner()
    for piece in cut(body, size):
        scanner.feed(piece)
    return scanner.usage


@pytest.mark.torture
@examples(50)
@given(
    before=st.dictionaries(st.sampled_from(KEYS[1:]), _values, max_size=3),
    usage=_usages,
    after=st.dictionaries(st.sampled_from(["x", "y\\"]), _values, max_size=2),
    layout=_layouts,
)
def test_the_usage_is_that_of_the_message_at_every_cut(
    before: dict[str, Any], usage: dict[str, Any], after: dict[str, Any], layout: Any
) -> None:
    indent, separators = layout
    text = json.dumps({**before, "usage": usage, **after}, indent=indent, separators=separators, ensure_ascii=False)
    body = text.encode()
    expected = usage_of_message(json.dumps({"usage": json.loads(text)["usage"]}).encode())
    for size in (1, 2, 7, 64, len(body)):
        assert scanned(body, size) == expected


@pytest.mark.torture
@examples(50)
@given(message=st.dictionaries(st.sampled_from(KEYS[1:]), _values, max_size=4))
def test_a_message_without_usage_has_none(message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    assert [scanned(body, size) for size in (1, 7, len(body))] == [None] * 3


@pytest.mark.torture
@examples()
@given(body=st.text(alphabet='"\\{}[],:usage 1').map(str.encode), size=st.integers(1, 9))
def test_arbitrary_bytes_never_raise(body: bytes, size: int) -> None:
    scanned(body, size)


@pytest.mark.parametrize("usage", ["null", "1", "[]", '"x"', '{"output_tokens":{}}'])
def test_usage_that_is_none(usage: str) -> None:
    assert scanned(f'{{"usage":{usage},"content":[]}}'.encode(), 3) in {None, Usage()}


def test_an_oversized_usage_is_not_held() -> None:
    scanner = UsageScanner()
    scanner.feed(b'{"usage":{"x":"')
    for _ in range(100):
        scanner.feed(b"x" * 10_000)
    scanner.feed(b'"}}')
    assert len(scanner._kept) < 100_000
    assert scanner.usage is None


TAIL = b',"usage":{"output_tokens":7}}'
BODIES = {
    "text": b'{"content":["' + b"hello world, this is text. " * 80_000 + b'"]' + TAIL,
    "escapes": b'{"content":["' + b'he said \\"x\\"\\n' * 160_000 + b'"]' + TAIL,
    "results": b'{"content":['
    + b'{"type":"x","url":"https://example.org","content":"' * 1
    + b"x" * 2_000_000
    + b'"}]'
    + TAIL,
    "small arrays": b'{"content":[' + b"[]," * 700_000 + b"1]" + TAIL,
    "nested arrays": b'{"content":[' + b"[[[]]]," * 300_000 + b"1]" + TAIL,
    "deep arrays": b'{"content":' + b"[" * 1_000_000 + b"]" * 1_000_000 + TAIL,
    "small strings": b'{"content":[' + b'"",' * 700_000 + b"1]" + TAIL,
}


@pytest.mark.parametrize("name", BODIES)
def test_the_time_is_linear_in_the_size(name: str) -> None:
    body = BODIES[name]
    began = time.process_time()
    assert scanned(body, 128 << 10) == Usage(output_tokens=7)
    assert (time.process_time() - began) / (len(body) / 1e6) < 0.1  # 100 ms a megabyte, ten times the usual
