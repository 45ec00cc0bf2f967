"""What the stand-ins refuse about thinking: blocks that another signed, and turns that lost theirs."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from bud_asgi.testing import StandIn, ThinkingBlock, blocks, thinking

ASKED: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 2000}
QUESTION = {"role": "user", "content": "Hi."}
CALL: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "a", "input": {}}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]}
THOUGHT = {"type": "thinking", "thinking": "", "signature": "x"}
ENABLED = {"type": "enabled", "budget_tokens": 1024}


async def post(upstream: StandIn, *, beta: str = "", **fields: Any) -> tuple[int, dict[str, Any]]:
    headers = {"x-api-key": upstream.api_key, "anthropic-version": "2023-06-01", "anthropic-beta": beta}
    async with httpx.AsyncClient() as client:
        reply = await client.post(f"{upstream.base_url}/v1/messages", json={**ASKED, **fields}, headers=headers)
    return reply.status_code, reply.json()


def answered(*content: Any) -> list[Any]:
    return [QUESTION, {"role": "assistant", "content": list(content)}, QUESTION]


@pytest.mark.parametrize("seed", [0, 1])
async def test_a_signature_is_accepted_by_its_signer_alone(seed: int) -> None:
    async with (
        StandIn(signer="a", seed=seed) as first,
        StandIn(signer="a") as same,
        StandIn(signer="b") as other,
        StandIn() as any_signer,
    ):
        first.enqueue(thinking("Hm.", "Hello."))
        _, message = await post(first, messages=[QUESTION])
        history = answered({"type": "text", "text": "Well."}, *message["content"])
        for upstream in (first, same, any_signer):
            assert (await post(upstream, messages=history))[0] == 200
        status, refusal = await post(other, messages=history)
        words = "messages.1.content.1: Invalid `signature` in `thinking` block"
        assert (status, refusal["error"]["type"], refusal["error"]["message"]) == (400, "invalid_request_error", words)
        assert len(message["content"][0]["signature"]) == len("Eq") + 190 + len("==")


async def test_what_no_service_has_signed_is_refused_by_each() -> None:
    async with StandIn(signer="a") as upstream:
        _, refusal = await post(upstream, messages=answered({"type": "redacted_thinking", "data": "Eq=="}))
        assert refusal["error"]["message"] == "messages.1.content.0: Invalid `data` in `redacted_thinking` block"
        upstream.enqueue(blocks(ThinkingBlock("Hm.", signature="made up")))
        _, message = await post(upstream, messages=[QUESTION])
        assert (await post(upstream, messages=answered(*message["content"])))[0] == 400


TURNS: dict[str, tuple[list[Any], Any, bool]] = {
    "begun with thinking": ([THOUGHT, CALL], ENABLED, True),
    "begun with redacted thinking": ([{"type": "redacted_thinking", "data": "x"}, CALL], ENABLED, True),
    "begun without": ([CALL], ENABLED, False),
    "begun without, adaptive": ([CALL], {"type": "adaptive"}, True),
    "begun without, and off": ([CALL], None, True),
}


@pytest.mark.parametrize(("content", "mode", "accepted"), TURNS.values(), ids=TURNS.keys())
async def test_a_turn_that_goes_on_with_thinking_began_with_it(content: list[Any], mode: Any, accepted: bool) -> None:
    async with StandIn() as upstream:
        going_on = [QUESTION, {"role": "assistant", "content": content}, RESULT]
        status, body = await post(upstream, messages=going_on, thinking=mode)
        assert status == (200 if accepted else 400), body
        if not accepted:
            words = "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When "
            assert body["error"]["message"].startswith(words)
        done = [*going_on, {"role": "assistant", "content": "Done."}, QUESTION]
        assert (await post(upstream, messages=done, thinking=mode))[0] == 200


@pytest.mark.parametrize(("mode", "accepted"), [(None, False), ({"type": "disabled"}, False), (ENABLED, True)])
async def test_thinking_is_cleared_only_where_it_is_on(mode: Any, accepted: bool) -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    async with StandIn() as upstream:
        beta = "context-management-2025-06-27"
        status, body = await post(upstream, beta=beta, messages=[QUESTION], thinking=mode, context_management=edits)
        assert status == (200 if accepted else 400), body
