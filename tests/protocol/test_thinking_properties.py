"""Whatever a conversation looks like, exactly its thinking blocks are left out, and all else keeps its bytes."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol.request import decode_request
from bud_asgi.protocol.thinking import without_thinking

SPACE = st.sampled_from(["", "", "", " ", "\n\t"])
NUMBERS = st.sampled_from(["0", "-0", "1.50", "1E+2", "1e-7", "12345678901234567890", "0.10"])
STRINGS = st.one_of(
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=True)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(
        lambda text: json.dumps(text, ensure_ascii=False)
    ),
    st.sampled_from([r'"\u0041\/"', r'"\"thinking\""', '"thinking"', '"é😀"', r'"{\"type\":\"thinking\"}"']),
).filter(lambda text: "\\ud" not in text)  # half of a pair: no request with one is decoded further


@st.composite
def arrays(draw: st.DrawFn, items: st.SearchStrategy[str], max_size: int = 3) -> str:
    inside = (draw(SPACE) + "," + draw(SPACE)).join(draw(st.lists(items, max_size=max_size)))
    return f"[{draw(SPACE)}{inside}{draw(SPACE)}]"


@st.composite
def objects(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[str]]) -> str:
    def pair(name: str) -> str:
        return f'"{name}"{draw(SPACE)}:{draw(SPACE)}{draw(fields[name])}'

    inside = (draw(SPACE) + "," + draw(SPACE)).join(map(pair, draw(st.permutations(list(fields)))))
    return f"{{{draw(SPACE)}{inside}{draw(SPACE)}}}"


def constant(text: str) -> st.SearchStrategy[str]:
    return st.just(json.dumps(text))


VALUES = st.recursive(
    st.one_of(NUMBERS, STRINGS, st.sampled_from(["null", "true", "false", "{}"])),
    lambda inner: st.one_of(arrays(inner), objects({"type": constant("thinking"), "thinking": inner, "é": inner})),
    max_leaves=6,
)
ITEMS = st.one_of(
    objects({"type": constant("thinking"), "thinking": STRINGS, "signature": STRINGS}),
    objects({"data": VALUES, "type": constant("redacted_thinking")}),
    objects({"type": constant("text"), "text": STRINGS, "citations": VALUES}),
    objects({"type": constant("tool_use"), "id": STRINGS, "input": VALUES}),
    objects({"type": VALUES}).filter(lambda text: not is_thinking(json.loads(text))),
    objects({"content": VALUES}),
    NUMBERS,
)
RESULTS = objects({"type": constant("tool_result"), "tool_use_id": STRINGS, "content": VALUES})
ANSWERS = objects({"role": constant("assistant"), "content": st.one_of(arrays(ITEMS, 5), STRINGS)})
QUESTIONS = objects({"role": constant("user"), "content": st.one_of(arrays(st.one_of(ITEMS, RESULTS), 3), STRINGS)})
SYSTEMS = objects({"role": constant("system"), "content": STRINGS, "clear_at": VALUES})
MODES = st.sampled_from(["null", '{"type":"adaptive"}', '{"type": "enabled", "budget_tokens": 1024}'])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    body = draw(
        objects(
            {
                "model": constant("claude-opus-4-8"),
                "messages": arrays(st.one_of(ANSWERS, ANSWERS, QUESTIONS, SYSTEMS), 6).filter(lambda text: "{" in text),
                "max_tokens": st.just("9"),
                "thinking": MODES,
                "an_unknown_field": VALUES,
                "tools": arrays(objects({"name": STRINGS, "type": constant("thinking")})),
            }
        )
    )
    return body.encode()


def is_thinking(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking")


def filtered(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The same by hand, on the decoded body; `None` if there is no request without thinking."""
    kept: list[Any] = []
    found = False
    for message in fields["messages"]:
        blocks = message["content"]
        if message["role"] != "assistant" or isinstance(blocks, str) or not any(map(is_thinking, blocks)):
            kept.append(message)
            continue
        found = True
        if blocks := [block for block in blocks if not is_thinking(block)]:
            kept.append({**message, "content": blocks})
        elif kept and kept[-1]["role"] == "system":
            return None
    if not found or not kept:
        return None
    following = list(takewhile(lambda message: message["role"] != "assistant", reversed(kept)))
    goes_on = not following or '"tool_result"' in json.dumps(following)
    off = goes_on and (fields["thinking"] or {}).get("type") == "enabled"
    return {name: value for name, value in {**fields, "messages": kept}.items() if name != "thinking" or not off}


@examples(40, 2_000)
@given(bodies())
def test_exactly_the_thinking_blocks_of_the_history_are_left_out(body: bytes) -> None:
    changed = without_thinking(decode_request(body))
    expected = filtered(json.loads(body))
    if changed is None:
        assert expected is None
        return
    request, names = changed
    assert json.loads(request.body) == expected
    assert ("thinking" in names) == ("thinking" not in (expected or {}))


Split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
Items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def parts(body: bytes) -> list[bytes]:
    """The bytes of every value that is not a container on the way to a block: in order, without thinking blocks."""
    found: list[bytes] = []
    for name, value in Split(body).items():
        if name != "messages":
            found += [name.encode(), bytes(value)]
            continue
        for item in Items(value):
            message = Split(item)
            content = message.pop("content")
            blocks = Items(content) if bytes(content).startswith(b"[") else [content]
            kept = [bytes(block) for block in blocks if not is_thinking(json.loads(bytes(block)))]
            if kept or not blocks or bytes(message["role"]) != b'"assistant"':
                found += [*map(bytes, message.values()), *kept]
    return found


@examples(40, 2_000)
@given(bodies())
def test_every_other_value_keeps_its_bytes(body: bytes) -> None:
    changed = without_thinking(decode_request(body))
    if changed is None:
        return
    request, names = changed
    before = parts(body)
    if "thinking" in names:
        at = before.index(b"thinking")
        del before[at : at + 2]
    assert parts(request.body) == before
