"""Thinking blocks that an upstream refuses: which errors say so, and the request without them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bud_asgi.protocol.errors import GatewayError, InvalidRequest
from bud_asgi.protocol.request import MessagesRequest, decode_request
from bud_asgi.protocol.thinking import is_signature_refusal, without_thinking
from bud_asgi.protocol.values import MAX_COMMAS
from bud_asgi.providers import ProviderRequest, UpstreamErrorResponse
from bud_asgi.providers.bedrock.errors import AwsError
from bud_asgi.providers.bedrock.errors import translate as translate_aws
from bud_asgi.providers.vertex.errors import GoogleError
from bud_asgi.providers.vertex.errors import translate as translate_google

SIGNATURE = "messages.3.content.0: Invalid `signature` in `thinking` block"
BOUND = (
    f"{SIGNATURE}. The block is bound to a different conversation. Remove the block, or set "
    '`thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
)
DATA = "messages.17.content.101: Invalid `data` in `redacted_thinking` block"
MISSING = "messages.369.content.0.thinking.signature: Field required"
WRAPPED = "The model returned the following errors: "

ASKED: dict[str, Any] = {"model": "claude-opus-4-8", "max_tokens": 9}
QUESTION = {"role": "user", "content": "Weather?"}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "Eq=="}
REDACTED = {"type": "redacted_thinking", "data": "Eq=="}
TEXT = {"type": "text", "text": 'It says {"type": "thinking"}.'}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {"type": "thinking", "thinking": [1.0, 1e5]}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]}
ENABLED = {"type": "enabled", "budget_tokens": 1024}


def request_of(messages: list[Any], **fields: Any) -> MessagesRequest:
    return decode_request(json.dumps({**ASKED, "messages": messages, **fields}).encode())


def anthropic(message: str, status: int = 400) -> GatewayError:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    return UpstreamErrorResponse(status, json.dumps(error).encode(), [])


def bedrock(message: str, name: str = "ValidationException", status: int = 400) -> GatewayError:
    return translate_aws(AwsError(name, message, status), "claude-opus-4-8")


def vertex(message: str) -> GatewayError:
    call = ProviderRequest(request_of([QUESTION]), {})
    return translate_google(GoogleError("INVALID_ARGUMENT", message, 400), call, ["my-project"])


REFUSALS: dict[str, GatewayError] = {
    "a signature": anthropic(SIGNATURE),
    "a signature, without backticks": anthropic(SIGNATURE.replace("`", "")),
    "a block that is bound to another conversation": anthropic(BOUND),
    "redacted thinking": anthropic(DATA),
    "a signature that is no text": anthropic("messages.1.content.0.thinking.signature.str: Input should be a string"),
    "a signature, at Bedrock": bedrock(SIGNATURE),
    "a signature, at Bedrock, from the model": bedrock(WRAPPED + SIGNATURE),
    "a signature, in a stream of Bedrock's": bedrock(SIGNATURE, "ValidationException", 0),
    "redacted thinking, at Bedrock": bedrock(WRAPPED + DATA),
    "no signature, at Bedrock": bedrock(WRAPPED + MISSING),
    "redacted thinking, by Vertex AI's front end": vertex(f"Publisher Model error: {DATA}"),
}


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_of_a_signature_is_recognised(error: GatewayError) -> None:
    assert is_signature_refusal(error)


MUST_BEGIN = (
    "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When `thinking` is "
    "enabled, a final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` "
    "and `tool_result` blocks)."
)
MODIFIED = (
    "messages.1.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified."
    " These blocks must remain as they were in the original response."
)
OTHERS: dict[str, GatewayError] = {
    "a turn that must begin with thinking": anthropic(MUST_BEGIN),
    "blocks that the client has changed": anthropic(MODIFIED),
    "a signature of AWS": bedrock(
        "The request signature we calculated does not match", "InvalidSignatureException", 403
    ),
    "an incomplete signature of AWS": bedrock("Authorization header requires", "IncompleteSignatureException"),
    "a compaction": anthropic("messages.1.content.0: Invalid `signature` in `compaction` block"),
    "an invalid field of a thinking block": anthropic("messages.1.content.0.thinking.thinking: Field required"),
    "the thinking budget": anthropic("`max_tokens` must be greater than `thinking.budget_tokens`."),
    "the thinking field": anthropic("thinking.signature: Extra inputs are not permitted"),
    "a prompt that is too long": bedrock("Input is too long for requested model."),
    "the same words with another status": anthropic(SIGNATURE, 413),
    "the same words without a place": anthropic("Invalid `signature` in `thinking` block"),
    "a body that is no error object": UpstreamErrorResponse(400, SIGNATURE.encode(), []),
    "an error of the gateway's": InvalidRequest("messages: Field required"),
}


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS.keys())
def test_another_error_is_not(error: GatewayError) -> None:
    assert not is_signature_refusal(error)


def answer(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def left(messages: list[Any], **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """The fields of the request without thinking, except those that every request has, and what was left out."""
    changed = without_thinking(request_of(messages, **fields))
    if changed is None:
        return None
    request, names = changed
    decoded: dict[str, Any] = json.loads(request.body)
    assert {name: decoded.pop(name) for name in ASKED} == ASKED
    for name, (start, end) in request.spans.items():
        assert json.loads(request.body[start:end]) == {**ASKED, **decoded}[name]
    return decoded, names


BLOCKS = ("messages.thinking",)
OFF = (*BLOCKS, "thinking")
CLEARING = {"type": "clear_thinking_20251015", "keep": "all"}
TOOL_USES = {"type": "clear_tool_uses_20250919"}

LEFT: dict[str, tuple[list[Any], dict[str, Any], list[Any], tuple[str, ...]]] = {
    "both kinds of blocks": (
        [QUESTION, answer(THINKING, TEXT, REDACTED), QUESTION], {},
        [QUESTION, answer(TEXT), QUESTION], BLOCKS,
    ),
    "every turn": (
        [QUESTION, answer(THINKING, TEXT), QUESTION, answer(REDACTED, TEXT), QUESTION], {},
        [QUESTION, answer(TEXT), QUESTION, answer(TEXT), QUESTION], BLOCKS,
    ),
    "thinking between tool calls": (
        [QUESTION, answer(THINKING, CALL, THINKING), RESULT, answer(TEXT), QUESTION], {},
        [QUESTION, answer(CALL), RESULT, answer(TEXT), QUESTION], BLOCKS,
    ),
    "a turn of nothing else": ([QUESTION, answer(THINKING), QUESTION], {}, [QUESTION, QUESTION], BLOCKS),
    "a final turn of nothing else": ([QUESTION, answer(REDACTED)], {}, [QUESTION], BLOCKS),
    "a first turn of nothing else": ([answer(THINKING), QUESTION], {}, [QUESTION], BLOCKS),
    "not in a message of the user's": (
        [{"role": "user", "content": [THINKING]}, answer(THINKING, TEXT), QUESTION], {},
        [{"role": "user", "content": [THINKING]}, answer(TEXT), QUESTION], BLOCKS,
    ),
    "a system message before a turn that remains": (
        [QUESTION, system("Be brief."), answer(THINKING, TEXT), QUESTION], {},
        [QUESTION, system("Be brief."), answer(TEXT), QUESTION], BLOCKS,
    ),
    "a tool loop, adaptive": (
        [QUESTION, answer(THINKING, CALL), RESULT], {"thinking": {"type": "adaptive"}},
        [QUESTION, answer(CALL), RESULT], BLOCKS,
    ),
    "a finished turn, enabled": (
        [QUESTION, answer(THINKING, CALL), RESULT, answer(THINKING, TEXT), QUESTION], {"thinking": ENABLED},
        [QUESTION, answer(CALL), RESULT, answer(TEXT), QUESTION], BLOCKS,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "fields", "remaining", "names"), LEFT.values(), ids=LEFT.keys())
def test_thinking_blocks_are_left_out(
    messages: list[Any], fields: dict[str, Any], remaining: list[Any], names: tuple[str, ...]
) -> None:
    assert left(messages, **fields) == ({"messages": remaining, **fields}, names)


LOOPS: dict[str, list[Any]] = {
    "tool results": [RESULT],
    "tool results and a text": [{"role": "user", "content": [*RESULT["content"], {"type": "text", "text": "Go on."}]}],
    "tool results in several messages": [RESULT, QUESTION],
    "tool results and a system message": [RESULT, system("Be brief.")],
    "nothing": [],
}


@pytest.mark.parametrize("following", LOOPS.values(), ids=LOOPS.keys())
def test_a_turn_that_goes_on_cannot_go_on_thinking(following: list[Any]) -> None:
    messages = [QUESTION, answer(THINKING, CALL), *following]
    assert left(messages, thinking=ENABLED) == ({"messages": [QUESTION, answer(CALL), *following]}, OFF)


MANAGED: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "one of several": ({"edits": [CLEARING, TOOL_USES]}, {"edits": [TOOL_USES]}),
    "the only one": ({"edits": [CLEARING]}, {"edits": []}),
    "no such edit": ({"edits": [TOOL_USES]}, None),
    "no edits": ({}, None),
    "edits of another form": ({"edits": {"type": "clear_thinking_20251015"}}, None),
}


@pytest.mark.parametrize(("given", "remaining"), MANAGED.values(), ids=MANAGED.keys())
def test_edits_that_need_thinking_go_with_it(given: dict[str, Any], remaining: dict[str, Any] | None) -> None:
    messages = [QUESTION, answer(THINKING, CALL), RESULT]
    names = OFF if remaining is None else (*OFF, "context_management.clear_thinking")
    expected = {"messages": [QUESTION, answer(CALL), RESULT], "context_management": remaining or given}
    assert left(messages, thinking=ENABLED, context_management=given) == (expected, names)
    kept = {"thinking": {"type": "adaptive"}, "context_management": given}
    assert left(messages, **kept) == ({"messages": expected["messages"], **kept}, BLOCKS)


UNCHANGED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "no thinking": ([QUESTION, answer(TEXT), QUESTION], {"thinking": ENABLED}),
    "text about it": ([{"role": "user", "content": 'I found "type": "thinking" in it'}], {}),
    "the input of a tool": ([QUESTION, answer(CALL), RESULT], {}),
    "a message of the user's": ([{"role": "user", "content": [THINKING]}], {}),
    "nothing would remain": ([answer(THINKING)], {}),
    "a system message before a turn of nothing else": (
        [QUESTION, system("Be brief."), answer(THINKING), QUESTION], {},
    ),
    "the client wants the error": (
        [QUESTION, answer(THINKING, TEXT), QUESTION],
        {"thinking": {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}}},
    ),
    "thinking of another form": ([QUESTION, answer(THINKING, TEXT), QUESTION], {"thinking": {"type": 1}}),
    "content of another form": ([QUESTION, {"role": "assistant", "content": {"type": "thinking"}}, QUESTION], {}),
    "messages of another form": ([QUESTION, ["thinking"]], {}),
    "too many parts": ([QUESTION, answer(THINKING, *[1] * (MAX_COMMAS + 1))], {}),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "fields"), UNCHANGED.values(), ids=UNCHANGED.keys())
def test_there_is_no_request_without_thinking(messages: list[Any], fields: dict[str, Any]) -> None:
    assert left(messages, **fields) is None


def test_a_client_that_lets_such_blocks_be_dropped_may_have_them_left_out() -> None:
    thinking = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    assert left([QUESTION, answer(THINKING, TEXT), QUESTION], thinking=thinking) is not None


def test_the_request_without_thinking_has_none_to_leave_out() -> None:
    changed = without_thinking(request_of([QUESTION, answer(THINKING, TEXT, REDACTED), QUESTION]))
    assert changed is not None
    assert without_thinking(changed[0]) is None


@pytest.mark.parametrize("depth", [10, 500, 900, 1000, 1100, 100_000])
def test_deep_nesting_is_kept_or_left_alone(depth: int) -> None:
    deep = msgspec.Raw(b'{"type":"tool_use","input":' + b"[" * depth + b"]" * depth + b"}")
    messages = [QUESTION, {"role": "assistant", "content": [THINKING, deep]}, RESULT]
    try:
        request = decode_request(msgspec.json.encode({**ASKED, "messages": messages}))
    except InvalidRequest:
        assert depth > 900
        return
    changed = without_thinking(request)
    assert changed is None or bytes(deep) in changed[0].body
