"""State that one account holds: which requests name some, of which kind, and that none is overlooked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from auth.driver import BODY, VERSION, Receiving, chunks, http_scope
from hypothesis import given
from hypothesis import strategies as st

from bud_asgi.exchange import Exchange
from bud_asgi.protocol.account_state import PINS_TO_ACCOUNT, account_state
from protocol.bodies import body, decode
from protocol.counts import examples


def kinds(**fields: Any) -> set[str]:
    """The kinds that a request with these fields names, however it is spaced."""
    whole = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}
    spellings = [json.dumps(whole), json.dumps(whole, separators=(",", ":")), json.dumps(whole, indent=1)]
    spellings.append(json.dumps(whole, separators=("\n,\r\t", " \n: ")))
    found = [set(account_state(decode(spelling.encode()))) for spelling in spellings]
    assert all(one == found[0] for one in found)
    return {*found[0]}


def said(*blocks: Any) -> dict[str, Any]:
    """A conversation with these blocks in it."""
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, *blocks]}]}


def result(kind: str, **content: Any) -> dict[str, Any]:
    """What a tool of the service's own has found."""
    return {"type": kind, "tool_use_id": "srvtoolu_1", "content": content}


BOUND: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, set()),
    "a thread that goes on": ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, {"thread"}),
    "a thread that begins": ({"thread": {"type": "create"}}, set()),
    "no thread": ({"thread": None}, set()),
    "a container": ({"container": "container_1"}, {"container"}),
    "a container in full": ({"container": {"id": "container_1", "skills": []}}, {"container"}),
    "a new container": ({"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}, set()),
    "a new container of no id": ({"container": {"id": None}}, set()),
    "no container": ({"container": None}, set()),
    "a skill of the account's": ({"container": {"skills": [{"type": "custom", "skill_id": "skill_1"}]}}, {"skill"}),
    "both": ({"container": {"id": "c", "skills": [{"skill_id": "s", "type": "custom"}]}}, {"container", "skill"}),
    "a fallback's credit": ({"fallback_credit_token": "t"}, {"fallback_credit"}),
    "a fallback's credit in full": (
        {"fallback_credit_token": {"token": "t", "mode": "strict"}},
        {"fallback_credit"},
    ),
    "no fallback's credit": ({"fallback_credit_token": None}, set()),
    "an image of a file": (said({"type": "image", "source": {"type": "file", "file_id": "file_1"}}), {"file"}),
    "an upload": (said({"type": "container_upload", "file_id": "file_1"}), {"file"}),
    "a file that was written": (
        said(result("bash_code_execution_tool_result", type="x", content=[{"file_id": "file_1"}])),
        {"file"},
    ),
    "a citation of no file": (said({"type": "text", "text": "a", "citations": [{"file_id": None}]}), set()),
    "thinking": (said({"type": "thinking", "thinking": "hm", "signature": "s"}), {"thinking"}),
    "redacted thinking": (said({"type": "redacted_thinking", "data": "d"}), {"thinking"}),
    "thinking asked for": ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, set()),
    "a compaction": (said({"type": "compaction", "content": "c"}), {"compaction"}),
    "compacting asked for": ({"compaction": {"type": "compaction"}}, set()),
    "a search": (
        said(result("web_search_tool_result", type="web_search_result", encrypted_content="e")),
        {"encrypted"},
    ),
    "an encrypted output": (said(result("code_execution_tool_result", encrypted_stdout="e")), {"encrypted"}),
    "words about it": (said({"type": "text", "text": '"file_id":"f" "type":"thinking" "id":"x"'}), set()),
    "words about it in another place": ({"system": '"previous_message_id":"m","file_id":"f"'}, set()),
    "words of a container": ({"metadata": {"container": "c", "thread": {"previous_message_id": "m"}}}, set()),
    "a tool's name": ({"tools": [{"name": "file_id", "input_schema": {"properties": {"file_id": {}}}}]}, set()),
    "the input of a tool, by mistake": (
        said({"type": "tool_use", "id": "toolu_1", "name": "t", "input": {"file_id": "my own"}}),
        {"file"},
    ),
}


@pytest.mark.parametrize(("fields", "found"), BOUND.values(), ids=BOUND.keys())
def test_what_a_request_names(fields: dict[str, Any], found: set[str]) -> None:
    assert kinds(**fields) == found


def test_what_another_account_answers_with_an_error_is_hard() -> None:
    assert {"thread", "container", "file", "skill", "fallback_credit"} == PINS_TO_ACCOUNT


NAMED = [(fields, found) for fields, found in BOUND.values() if found]


def escaped(sent: bytes, places: set[int]) -> bytes:
    """The same JSON with the letters at some places written as escapes, where they stand in a string."""
    written, inside, backslash = "", False, False
    for place, letter in enumerate(sent.decode()):
        plain = inside and not backslash and letter not in '"\\' and letter.isascii()
        written += f"\\u{ord(letter):04x}" if plain and place in places else letter
        backslash = letter == "\\" and not backslash
        inside ^= letter == '"' and not backslash and not written.endswith('\\"')
    return written.encode()


@pytest.mark.torture
@examples(300)
@given(named=st.sampled_from(NAMED), data=st.data())
def test_none_is_overlooked_however_it_is_spelled(named: tuple[dict[str, Any], set[str]], data: st.DataObject) -> None:
    fields, found = named
    whole = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}
    sent = json.dumps(whole).encode()
    other = escaped(sent, data.draw(st.sets(st.integers(0, len(sent)), max_size=20)))
    assert json.loads(other) == whole
    assert found <= account_state(decode(other))


@pytest.mark.parametrize("text", ["é\\u00e9 < > & ' \x7f\x01", "a😀", "C:\\users\\u0041"])
def test_escapes_as_serializers_write_them_name_nothing(text: str) -> None:
    escape = json.dumps([{"text": text}]).replace("<", "\\u003c").replace("&", "\\u0026").replace("'", "\\u0027")
    assert account_state(decode(body(messages=escape.encode()))) == set()


async def test_the_record_knows_it_from_the_request_on() -> None:
    exchange = Exchange(http_scope([VERSION]))
    assert exchange.bound == set()
    await exchange.request(Receiving(*chunks(BODY[:-1] + b',"container":"c"}')))
    assert exchange.bound == {"container"}


async def test_a_record_that_has_let_go_of_the_body_can_be_asked_still() -> None:
    exchange, receive = Exchange(http_scope([VERSION])), Receiving(*chunks(BODY))
    exchange.forget_body()
    request = await exchange.request(receive)
    exchange.forget_body()
    assert exchange.bound == set()
    kept = await exchange.request(receive)
    assert (kept.body, kept.spans, kept.model, kept.max_tokens) == (b"", {}, request.model, request.max_tokens)
    assert receive.calls == 1
