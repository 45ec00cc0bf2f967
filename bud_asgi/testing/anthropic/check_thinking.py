"""Checks of thinking: the field, the turn that it goes on with, and who signed the blocks of earlier turns.

Sources: "Extended thinking", "Adaptive thinking", "Context editing"; wordings as observed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from bud_asgi.testing.anthropic.check_values import Fields, expect_integer, expect_object, expect_type, require
from bud_asgi.testing.anthropic.errors import invalid_request
from bud_asgi.testing.anthropic.messages import is_signed_by
from bud_asgi.testing.anthropic.models import generation

_PROOFS = {"thinking": "signature", "redacted_thinking": "data"}
"""The blocks of thinking, and the field of each by which the service recognises its own."""


def check_thinking(fields: Fields, model: str) -> None:
    """Check `thinking`, what it excludes and what needs it. Raises `Rejected`."""
    given: object = fields.get("thinking")
    kind = None if given is None else _check_kind(expect_object(given, "thinking"))
    if kind not in ("enabled", "adaptive") and any(_is_clearing(edit) for edit in _edits(fields)):
        raise invalid_request("`clear_thinking_20251015` strategy requires `thinking` to be enabled or adaptive")
    if kind != "enabled":
        return
    if generation(model) >= (4, 7):
        raise invalid_request(
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
            '"output_config.effort" to control thinking behavior.'
        )
    value = require(cast("Fields", given), "budget_tokens", "thinking.enabled.")
    budget = expect_integer(value, "thinking.enabled.budget_tokens", minimum=1024)
    if "max_tokens" in fields and budget >= fields["max_tokens"]:
        raise invalid_request("`max_tokens` must be greater than `thinking.budget_tokens`.")
    choice: object = fields.get("tool_choice")
    if isinstance(choice, dict) and cast("dict[str, Any]", choice).get("type") in ("any", "tool"):
        raise invalid_request("Thinking may not be enabled when tool_choice forces tool use.")
    _check_turn(cast("list[Fields]", fields["messages"]))


def check_signatures(messages: object, signer: str) -> None:
    """Check that the service itself has signed the thinking blocks. Raises `Rejected`."""
    for n, message in enumerate(cast("list[Fields]", messages)):
        for m, block in enumerate(_blocks(message)):
            kind = str(block.get("type"))
            proof = _PROOFS.get(kind)
            if proof is not None and not is_signed_by(str(block[proof]), signer):
                raise invalid_request(f"messages.{n}.content.{m}: Invalid `{proof}` in `{kind}` block")


def _check_kind(thinking: Fields) -> str:
    return expect_type(thinking, ("adaptive", "enabled", "disabled", "between_tools"), "thinking")


def _edits(fields: Fields) -> Iterator[object]:
    management: object = fields.get("context_management")
    edits: object = cast("Fields", management).get("edits") if isinstance(management, dict) else None
    yield from cast("list[object]", edits) if isinstance(edits, list) else ()


def _is_clearing(edit: object) -> bool:
    return isinstance(edit, dict) and str(cast("Fields", edit).get("type")).startswith("clear_thinking_")


def _check_turn(messages: Sequence[Fields]) -> None:
    """Check that a turn which goes on, with the results of its tools, began with thinking."""
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    following = messages[answers[-1] + 1 :] if answers else ()
    if not any(block.get("type") == "tool_result" for message in following for block in _blocks(message)):
        return
    first = next(iter(_blocks(messages[answers[-1]])), {"type": "text"})
    if first.get("type") not in _PROOFS:
        kind = first.get("type")
        raise invalid_request(
            f"messages.{answers[-1]}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{kind}`. "
            "When `thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the "
            "lastmost set of `tool_use` and `tool_result` blocks). We recommend you include thinking blocks from "
            "previous turns. To avoid this requirement, disable `thinking`. Please consult our documentation at "
            "https://docs.claude.com/en/docs/build-with-claude/extended-thinking"
        )


def _blocks(message: Fields) -> Sequence[Fields]:
    content: object = message.get("content")
    return cast("list[Fields]", content) if isinstance(content, list) else ()
