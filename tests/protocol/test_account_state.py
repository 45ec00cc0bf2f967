"""State held for one account: the kinds that a request refers to, none of which may be missed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import BODY, VERSION, Receiving, chunks, http_scope
from support.bodies import body, decode
from support.counts import examples

from bud_asgi.exchange import Exchange
from bud_asgi.protocol.account_state import PINS_TO_ACCOUNT, account_state


def kinds(**fields: Any) -> set[str]:
    """The kinds that a request with these fields refers to, whatever its whitespace."""
    whole = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}
    spellings = [json.dumps(whole), json.dumps(whole, separators=(",", ":")), json.dumps(whole, indent=1)]
    spellings.append(json.dumps(whole, separators=("\n,\r\t", " \n: ")))
    found = [set(account_state(decode(spelling.encode()))) for spelling in spellings]
    assert all(one == found[0] for one in found)
    return {*found[0]}


def conversation(*blocks: Any) -> dict[str, Any]:
    """A conversation that contains these blocks."""
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, *blocks]}]}


def result(kind: str, **content: Any) -> dict[str, Any]:
    """A result of a server-side tool."""
    return {"type": kind, "tool_use_id": "srvtoolu_1", "content": content}


STATE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, set()),
    "a continued thread": ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, {"thread"}),
    "a new thread": ({"thread": {"type": "create"}}, set()),
    "no thread": ({"thread": None}, set()),
    "a container": ({"container": "container_1"}, {"container"}),
    "a container object": ({"container": {"id": "container_1", "skills": []}}, {"container"}),
    "a new container": ({"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}, set()),
    "a new container with a null id": ({"container": {"id": None}}, set()),
    "no container": ({"container": None}, set()),
    "a custom skill": ({"container": {"skills": [{"type": "custom", "skill_id": "skill_1"}]}}, {"skill"}),
    "a container and a custom skill": (
        {"container": {"id": "c", "skills": [{"skill_id": "s", "type": "custom"}]}},
        {"container", "skill"},
    ),
    "a fallback credit": ({"fallback_credit_token": "t"}, {"fallback_credit"}),
    "a fallback credit object": (
        {"fallback_credit_token": {"token": "t", "mode": "strict"}},
        {"fallback_credit"},
    ),
    "no fallback credit": ({"fallback_credit_token": None}, set()),
    "an image of a file": (conversation({"type": "image", "source": {"type": "file", "file_id": "file_1"}}), {"file"}),
    "an upload": (conversation({"type": "container_upload", "file_id": "file_1"}), {"file"}),
    "a file written by a tool": (
        conversation(result("bash_code_execution_tool_result", type="x", content=[{"file_id": "file_1"}])),
        {"file"},
    ),
    "a citation with a null file": (
        conversation({"type": "text", "text": "a", "citations": [{"file_id": None}]}),
        set(),
    ),
    "thinking": (conversation({"type": "thinking", "thinking": "hm", "signature": "s"}), {"thinking"}),
    "redacted thinking": (conversation({"type": "redacted_thinking", "data": "d"}), {"thinking"}),
    "thinking enabled": ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, set()),
    "a compaction": (conversation({"type": "compaction", "content": "c"}), {"compaction"}),
    "compaction enabled": ({"compaction": {"type": "compaction"}}, set()),
    "a search": (
        conversation(result("web_search_tool_result", type="web_search_result", encrypted_content="e")),
        {"encrypted"},
    ),
    "an encrypted output": (conversation(result("code_execution_tool_result", encrypted_stdout="e")), {"encrypted"}),
    "text that looks like state": (
        conversation({"type": "text", "text": '"file_id":"f" "type":"thinking" "id":"x"'}),
        set(),
    ),
    "a system prompt that looks like state": ({"system": '"previous_message_id":"m","file_id":"f"'}, set()),
    "metadata that looks like state": ({"metadata": {"container": "c", "thread": {"previous_message_id": "m"}}}, set()),
    "a tool's name": ({"tools": [{"name": "file_id", "input_schema": {"properties": {"file_id": {}}}}]}, set()),
    "the input of a tool, a false positive": (
        conversation({"type": "tool_use", "id": "toolu_1", "name": "t", "input": {"file_id": "my own"}}),
        {"file"},
    ),
}


@pytest.mark.parametrize(("fields", "expected"), STATE.values(), ids=STATE.keys())
def test_the_kinds_of_a_request_are_found(fields: dict[str, Any], expected: set[str]) -> None:
    assert kinds(**fields) == expected


def test_the_kinds_that_pin_a_request_to_an_account() -> None:
    assert {"thread", "container", "file", "skill", "fallback_credit"} == PINS_TO_ACCOUNT


NAMED = [(fields, found) for fields, found in STATE.values() if found]


def escaped(sent: bytes, places: set[int]) -> bytes:
    """The same JSON, with the letters of strings at some positions written as escapes."""
    written, inside, backslash = "", False, False
    for place, letter in enumerate(sent.decode()):
        plain = inside and not backslash and letter not in '"\\' and letter.isascii()
        written += f"\\u{ord(letter):04x}" if plain and place in places else letter
        backslash = letter == "\\" and not backslash
        inside ^= letter == '"' and not backslash and not written.endswith('\\"')
    return written.encode()


@pytest.mark.torture
@examples(40)
@given(named=st.sampled_from(NAMED), data=st.data())
def test_no_kind_is_missed_however_it_is_spelled(named: tuple[dict[str, Any], set[str]], data: st.DataObject) -> None:
    fields, found = named
    whole = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}
    sent = json.dumps(whole).encode()
    other = escaped(sent, data.draw(st.sets(st.integers(0, len(sent)), max_size=20)))
    assert json.loads(other) == whole
    assert found <= account_state(decode(other))


@pytest.mark.parametrize("text", ["é\\u00e9 < > & ' \x7f\x01", "a😀", "C:\\users\\u0041"])
def test_escapes_as_serializers_write_them_are_not_state(text: str) -> None:
    escape = json.dumps([{"text": text}]).replace("<", "\\u003c").replace("&", "\\u0026").replace("'", "\\u0027")
    assert account_state(decode(body(messages=escape.encode()))) == set()


async def test_the_exchange_has_the_state_once_the_request_is_read() -> None:
    exchange = Exchange.of(http_scope([VERSION]))
    assert exchange.account_state == set()
    await exchange.request(Receiving(*chunks(BODY[:-1] + b',"container":"c"}')))
    assert exchange.account_state == {"container"}


async def test_the_exchange_has_no_state_after_the_body_is_released() -> None:
    exchange, receive = Exchange.of(http_scope([VERSION])), Receiving(*chunks(BODY))
    exchange.release_body()
    request = await exchange.request(receive)
    exchange.release_body()
    assert exchange.account_state == set()
    kept = await exchange.request(receive)
    assert (kept.body, kept.spans, kept.model, kept.max_tokens) == (b"", {}, request.model, request.max_tokens)
    assert receive.calls == 1
