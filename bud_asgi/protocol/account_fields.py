"""The fields and headers that change what a request costs, or whom it is billed to, and their default actions.

Vendor pages "Service tiers", "Fast mode", "Data residency", "User profiles", "Workspaces", "MCP connector",
"Server-side fallback"; AWS, "InvokeModel" (`amazon-bedrock-guardrailConfig`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from bud_asgi.protocol.folding import LONGEST_FOLDED, folded

Action = Literal["forward", "drop", "refuse"]
"""What happens to a field: it is sent to the upstream, left out, or the request is refused."""


class AccountField(msgspec.Struct, frozen=True):
    """The default `action` for a field of the body, and for the `header` of the same meaning.

    `clients_own`: it only concerns the account that pays, so a client that calls with its own credential may set it.
    """

    action: Action
    header: bytes = b""
    clients_own: bool = False


BEDROCK_FIELDS = "amazon-bedrock-*"
"""The name for all of Bedrock's own fields in a body, such as `amazon-bedrock-guardrailConfig`."""

ACCOUNT_FIELDS: Mapping[str, AccountField] = {
    "user_profile_id": AccountField("drop", b"anthropic-user-profile-id", clients_own=True),
    "billing_policy": AccountField("drop", clients_own=True),
    "workspace_id": AccountField("drop", b"anthropic-workspace-id", clients_own=True),
    BEDROCK_FIELDS: AccountField("refuse"),
    "service_tier": AccountField("forward", b"x-amzn-bedrock-service-tier"),
    "speed": AccountField("forward"),
    "inference_geo": AccountField("forward"),
    "mcp_servers": AccountField("forward"),
    "fallbacks": AccountField("forward"),
    "fallback_credit_token": AccountField("forward"),
}
"""The fields by name. They are official fields that official clients send, so most are forwarded by default."""

_BEDROCK = folded(BEDROCK_FIELDS)
_BY_FOLDED = {folded(name): name for name in ACCOUNT_FIELDS}
_BY_FOLDED_HEADER = {folded(field.header.decode()): name for name, field in ACCOUNT_FIELDS.items() if field.header}


def account_field(key: str) -> str | None:
    """The name in `ACCOUNT_FIELDS` of a key of a body in any spelling; `None` if it is not one of these fields."""
    return _account_field(key) if len(key) <= LONGEST_FOLDED else None


def account_header(header: bytes) -> str | None:
    """The same for a header: some servers read `_` in its name as `-`."""
    return _account_header(header) if len(header) <= LONGEST_FOLDED else None


@lru_cache(maxsize=1024)
def _account_field(key: str) -> str | None:
    text = folded(key)
    return BEDROCK_FIELDS if text.startswith(_BEDROCK) else _BY_FOLDED.get(text)


@lru_cache(maxsize=1024)
def _account_header(header: bytes) -> str | None:
    return _BY_FOLDED_HEADER.get(folded(header.decode("latin-1")))
