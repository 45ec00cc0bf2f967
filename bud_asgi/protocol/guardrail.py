"""The verdict of a Bedrock guardrail in a reply (AWS, "Include a guardrail with the InvokeModel operation")."""

from __future__ import annotations

import msgspec

from bud_asgi.protocol.malformed import MALFORMED_JSON

ACTION = b"amazon-bedrock-guardrailAction"
"""The field of the verdict: `NONE` or `INTERVENED`."""

_LONGEST = 64  # characters


class _Verdict(msgspec.Struct, frozen=True):
    action: str | None = msgspec.field(name=ACTION.decode(), default=None)


_decode = msgspec.json.Decoder(_Verdict).decode


def guardrail_action(body: bytes) -> str | None:
    """Return the verdict in a Message or the data of an event; `None` if it has none at its top level."""
    if body.find(ACTION) < 0:  # `in` would cost twice as much
        return None
    try:
        action = _decode(body).action
    except MALFORMED_JSON:
        return None
    return action[:_LONGEST] if action else None
