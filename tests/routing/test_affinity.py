"""The key of a conversation: the same over all its turns, another for another conversation."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import VERSION, Receiving, chunks, http_scope
from support.counts import examples

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.routing import Route, RouteTable
from bud_asgi.routing.affinity import (
    MAX_SYSTEM,
    MAX_TOOLS,
    MAX_TURN,
    SESSION_HEADERS,
    SMALLEST_CACHED,
    affinity_key,
)

Fields = dict[str, Any]
Turn = dict[str, Any]

CACHED = {"type": "ephemeral"}
SESSION = (b"x-claude-code-session-id", b"0f1e2d3c")
LONG = 'words and "quotes" in a text\n' * 200
ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.0.%s; cc_entrypoint=cli; cch=%s;"


def write(fields: object) -> bytes:
    """JSON as an SDK in JavaScript writes it."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def write_with_spaces(fields: object) -> bytes:
    """JSON as Python writes it."""
    return json.dumps(fields).encode()


def write_sorted(fields: object) -> bytes:
    """JSON with sorted keys, so that `content` comes before `role`."""
    return json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()


def write_indented(fields: object) -> bytes:
    """JSON for people."""
    return json.dumps(fields, indent=2).encode()


WRITERS: Mapping[str, Callable[[object], bytes]] = {
    "compact": write,
    "with spaces": write_with_spaces,
    "sorted": write_sorted,
    "indented": write_indented,
}


def key_of(
    body: bytes, *headers: tuple[bytes, bytes], principal: str | None = "ann", counting: bool = False
) -> int | None:
    """The key of a request."""
    exchange = Exchange.of(http_scope([VERSION, *headers]))
    exchange.operation = "messages.count_tokens" if counting else "messages.create"
    exchange.principal = None if principal is None else Principal(id=principal)
    asyncio.run(exchange.request(Receiving(*chunks(body))))
    return affinity_key(exchange)


def fields_of(turns: Sequence[Turn], **more: object) -> Fields:
    """The fields of a request."""
    fields = {"model": "claude-haiku-4-5", "max_tokens": 64, "system": LONG, "messages": list(turns), **more}
    return {name: value for name, value in fields.items() if value is not None}


def user(*texts: str) -> Turn:
    """A turn of a user: one text as a string, several as blocks."""
    content = texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]
    return {"role": "user", "content": content}


def marked(turn: Turn) -> Turn:
    """The turn with `cache_control` in its last block; a string becomes a block."""
    content = turn["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**turn, "content": [*blocks[:-1], {**blocks[-1], "cache_control": CACHED}]}


def growing(turns: Sequence[Turn]) -> list[list[Turn]]:
    """The messages of each request of a conversation. Its latest turn is marked, as many clients do."""
    return [[*turns[:size], marked(turns[size])] for size in range(len(turns))]


def image(data: str) -> Turn:
    """A turn that begins with an image."""
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]}


DOCUMENT: Turn = {
    "role": "user",
    "content": [
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}},
        {"type": "search_result", "source": "https://a", "title": "b", "content": [{"type": "text", "text": "c"}]},
        {"type": "text", "text": 'the keys {"role": "user"}, {"role": "assistant"}'},
    ],
}

FIRST_TURNS: Mapping[str, Turn] = {
    "a short text": user("hello"),
    "an empty text": user(""),
    "two texts": user("a reminder", "a question"),
    "a text that looks like turns": user('},{"role":"user","content":"a"},{"content":"b","role":"user"}'),
    "escapes": user('\\"}],"\\\\ \u2028 é 😀 \n'),
    "a document": DOCUMENT,
    "an image": image("A" * 3000),
    "a large image": image("A" * 100_000),
    "a large text": user("word \n" * 20_000),
    "a large text after a short one": user("a reminder", "word \n" * 20_000),
    "a text of about the greatest size": user("w" * (MAX_TURN - 10)),
    "two texts of almost the greatest size": user("w" * (MAX_TURN // 2), "v" * (MAX_TURN // 2 - 100)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("case", FIRST_TURNS)
def test_a_conversation_keeps_its_key(case: str, writer: str) -> None:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "an answer"}]}
    turns = [FIRST_TURNS[case], answer, user("and then?"), answer, user("x" * 50_000)]
    requests = [WRITERS[writer](fields_of(messages)) for messages in growing(turns)]
    assert len({key_of(body) for body in requests}) == 1
    assert key_of(requests[0]) is not None


@pytest.mark.parametrize("writer", WRITERS)
def test_other_first_turns_have_other_keys(writer: str) -> None:
    found = {key_of(WRITERS[writer](fields_of([turn]))) for turn in FIRST_TURNS.values()}
    assert len(found) == len(FIRST_TURNS)


CONTENT: Mapping[str, Callable[[int], Turn]] = {
    "a text": lambda size: user("a" * size),
    "the second of two texts": lambda size: user("a reminder", "a" * size),
    "an image": lambda size: image("a" * size),
}


@pytest.mark.parametrize("case", CONTENT)
def test_a_change_in_any_value_of_the_first_turn_changes_the_key(case: str) -> None:
    keys = {key_of(write(fields_of([CONTENT[case](size)]))) for size in range(1, 50)}
    assert len(keys) == 49


@given(
    sizes=st.lists(st.integers(MAX_TURN - 200, MAX_TURN + 3000), min_size=2, max_size=2),
    writer=st.sampled_from(sorted(WRITERS)),
)
@examples(15, 2_000)
def test_a_text_of_any_size_keeps_its_key_when_its_mark_goes(sizes: list[int], writer: str) -> None:
    for size in sizes:
        turns = [user("ab\n" * (size // 3)), {"role": "assistant", "content": "b"}, user("c")]
        assert len({key_of(WRITERS[writer](fields_of(messages))) for messages in growing(turns)}) == 1


text = st.text(st.characters(codec="utf-8"), max_size=40)
block = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": text}),
    st.fixed_dictionaries({"type": st.just("image"), "source": st.dictionaries(text, text, max_size=2)}),
    st.fixed_dictionaries({"type": st.just("other"), "input": st.dictionaries(text, st.lists(text, max_size=2))}),
)
content = text | st.lists(block, min_size=1, max_size=4)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": content})


@given(turns=st.lists(turn, min_size=1, max_size=6), writer=st.sampled_from(sorted(WRITERS)))
@examples(75, 2_000)
def test_appended_turns_never_change_the_key(turns: list[Turn], writer: str) -> None:
    keys = {key_of(WRITERS[writer](fields_of(messages))) for messages in growing(turns)}
    keys |= {key_of(WRITERS[writer](fields_of(turns[:size]))) for size in range(1, len(turns) + 1)}
    assert len(keys) == 1


@given(data=st.data(), turns=st.lists(turn, min_size=1, max_size=3))
@examples(50, 2_000)
def test_the_order_of_the_fields_does_not_matter(data: st.DataObject, turns: list[Turn]) -> None:
    fields = fields_of(turns, tools=[{"name": "a", "input_schema": {}}], stream=True, temperature=0.5)
    shuffled = dict(data.draw(st.permutations(list(fields.items()))))
    assert key_of(write(shuffled)) == key_of(write(fields))


CHANGES: Mapping[str, tuple[Fields, bool]] = {
    "another number of tokens": ({"max_tokens": 65}, False),
    "a stream": ({"stream": True}, False),
    "other metadata": ({"metadata": {"user_id": "someone"}}, False),
    "another model": ({"model": "claude-opus-4-8"}, True),
    "another system prompt": ({"system": "b" + LONG}, True),
    "no system prompt": ({"system": None}, True),
    "a system prompt of blocks": ({"system": [{"type": "text", "text": LONG}]}, True),
    "a tool": ({"tools": [{"name": "a", "input_schema": {}}]}, True),
    "another turn": ({"messages": [user("bye", LONG)]}, True),
    "the same turn twice": ({"messages": [user("hi", LONG), user("hi", LONG)]}, False),
}


@pytest.mark.parametrize("case", CHANGES)
def test_the_key_changes_with_the_beginning_of_the_prompt_only(case: str) -> None:
    changed, is_other = CHANGES[case]
    turns = [user("hi", LONG)]
    assert (key_of(write(fields_of(turns))) != key_of(write(fields_of(turns, **changed)))) is is_other


@pytest.mark.parametrize("writer", WRITERS)
def test_the_attribution_of_a_client_does_not_count(writer: str) -> None:
    def key(*system: Fields) -> int | None:
        return key_of(WRITERS[writer](fields_of([user("hi")], system=list(system))))

    prompt = {"type": "text", "text": LONG, "cache_control": CACHED}
    blocks = [
        {"type": "text", "text": ATTRIBUTION % ("a1", "3f2")},
        {"type": "text", "text": ATTRIBUTION % ("b2", 'a \\"quote\\" }],[{')},
    ]
    assert len({key(block, prompt) for block in blocks}) == 1
    assert key(blocks[0], {"type": "text", "text": "b" + LONG}) != key(blocks[0], prompt)
    assert key(prompt, blocks[0]) != key(prompt, blocks[1])


def test_of_long_parts_the_beginning_counts() -> None:
    def key(tools: int, system: int, *, last: str) -> int | None:
        tool = {"name": "a", "description": "d" * tools + last, "input_schema": {}}
        return key_of(write(fields_of([user("hi")], tools=[tool], system="s" * system + last)))

    assert key(MAX_TOOLS, MAX_SYSTEM, last="a") == key(MAX_TOOLS, MAX_SYSTEM, last="b")
    assert key(MAX_TOOLS, 1, last="a") != key(MAX_TOOLS, 1, last="b")
    assert key(1, MAX_SYSTEM, last="a") != key(1, MAX_SYSTEM, last="b")


@pytest.mark.parametrize("name", SESSION_HEADERS)
def test_the_session_of_a_client_is_the_key(name: bytes) -> None:
    one, other = write(fields_of([user("hi")])), write(fields_of([user("bye")], system="short"))
    assert key_of(one, (name, b"1")) == key_of(other, (name, b"1")) != key_of(one)
    assert key_of(one, (name, b"1")) != key_of(one, (name, b"2"))


def test_a_session_belongs_to_its_caller_and_a_model() -> None:
    body, other = write(fields_of([user("hi")])), write(fields_of([user("hi")], model="claude-opus-4-8"))
    keys = {
        key_of(body, SESSION),
        key_of(body, SESSION, principal="bob"),
        key_of(body, SESSION, principal=None),
        key_of(other, SESSION),
    }
    assert len(keys) == 4


def test_the_first_session_header_counts_and_an_empty_one_does_not() -> None:
    body = write(fields_of([user("hi")]))
    assert key_of(body, (b"x-session-id", b"1"), SESSION) == key_of(body, SESSION)
    assert key_of(body, (SESSION[0], b""), (b"x-session-id", b"1")) == key_of(body, (b"x-session-id", b"1"))
    assert key_of(body, (SESSION[0], b"")) == key_of(body)


def test_callers_with_the_same_prompt_share_a_target() -> None:
    body = write(fields_of([user("hi")]))
    assert key_of(body) == key_of(body, principal="bob") == key_of(body, principal=None)


def test_the_model_is_that_of_the_route() -> None:
    """Names of one model with and without its context window go to the same caches."""
    table = RouteTable([Route("claude-*", [Target("a"), Target("b")])])
    keys: set[int | None] = set()
    for model in ("claude-opus-4-8", "claude-opus-4-8[1m]"):
        exchange = Exchange.of(http_scope([VERSION]))
        exchange.operation = "messages.create"
        asyncio.run(exchange.request(Receiving(*chunks(write(fields_of([user("hi")], model=model))))))
        exchange.route = table.resolve(model, None)
        keys.add(affinity_key(exchange))
    assert len(keys) == 1


def test_without_anything_to_cache_there_is_no_key() -> None:
    short = fields_of([user("hi")], system="short")
    assert key_of(write(short)) is None
    assert key_of(write(fields_of([marked(user("hi"))], system="short"))) is not None
    assert key_of(write({**short, "cache_control": CACHED})) is not None
    assert key_of(write(short), SESSION) is not None
    assert key_of(write(fields_of([user("a" * SMALLEST_CACHED)], system=None))) is not None


def test_counting_tokens_has_no_key() -> None:
    body = write(fields_of([marked(user("hi"))]))
    assert key_of(body, SESSION, counting=True) is None


ODD: Mapping[str, str] = {
    "an empty message": "[{}]",
    "no content": '[{"role":"user"}]',
    "a second message of another type": '[{"role":"user","content":"a"},"a",1,null]',
    "content of another type": '[{"role":"user","content":null}]',
    "blocks of another type": '[{"role":"user","content":["a",null]}]',
    "no blocks": '[{"role":"user","content":[]}]',
    "a text of another type": '[{"role":"user","content":[{"type":"text","text":{"a":1}}]}]',
    "a role of another type": '[{"content":"a","role":1},{"content":"a","role":1}]',
    "a nested key that looks like a turn": '[{"role":"user","content":[{"type":"x","a":[{},{"role":"b"}]}]}]',
    "deep nesting": '[{"role":"user","content":' + "[" * 500 + "]" * 500 + "}]",
}


@pytest.mark.parametrize("case", ODD)
def test_odd_messages_have_a_key_as_well(case: str) -> None:
    body = b'{"model":"m","max_tokens":1,"system":%b,"messages":%b}' % (write(LONG), ODD[case].encode())
    key = key_of(body)
    assert key is not None
    assert 0 <= key < 1 << 64


def _recorded() -> Mapping[str, Turn]:
    """The turns of recorded replies, when the environment names a folder of them."""
    folder = os.environ.get("BUD_ASGI_RECORDED")
    replies: dict[str, Turn] = {}
    for path in sorted(Path(folder).glob("*.json")) if folder else ():
        reply: Any = json.loads(path.read_bytes())
        if isinstance(reply, dict) and isinstance(reply.get("content"), list) and reply["content"]:
            replies[path.name] = {"role": "assistant", "content": reply["content"]}
    return replies


RECORDED = _recorded()


@pytest.mark.parametrize("writer", WRITERS)
def test_conversations_of_recorded_replies_keep_their_keys(writer: str) -> None:
    keys: set[int | None] = set()
    for name, reply in RECORDED.items():
        turns = [user("a reminder", f"a question for {name}"), reply, user("more"), reply, user("more")]
        of_conversation = {key_of(WRITERS[writer](fields_of(messages))) for messages in growing(turns)}
        assert len(of_conversation) == 1
        keys |= of_conversation
    assert len(keys) == len(RECORDED)
