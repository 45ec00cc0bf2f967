"""Builds requests, and adapts them to a cloud."""

from __future__ import annotations

import json
from typing import Any

from bud_asgi.protocol.request import MessagesRequest, decode_request, edited
from bud_asgi.providers.compat.features import Adaptation, adapt
from bud_asgi.providers.compat.rules import Service, service_rules
from bud_asgi.providers.seam import ProviderRequest

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
NEWER = "claude-opus-4-8"
OLDER = "claude-haiku-4-5"
OLDEST = "claude-sonnet-4-20250514"
VERSION = b"2023-06-01"


def request_of(fields: dict[str, Any] | bytes, *, counting: bool = False) -> MessagesRequest:
    """Decode a request with these fields and the required ones, or a given body."""
    if isinstance(fields, bytes):
        return decode_request(fields, counting=counting)
    required = {"model": NEWER, "messages": MESSAGES, **({} if counting else {"max_tokens": 9})}
    return decode_request(json.dumps({**required, **fields}).encode(), counting=counting)


def call_of(
    fields: dict[str, Any] | bytes | None = None, *, betas: str = "", counting: bool = False, **more: Any
) -> ProviderRequest:
    headers = {b"anthropic-version": VERSION, **({b"anthropic-beta": betas.encode()} if betas else {})}
    return ProviderRequest(request_of(fields or {}, counting=counting), headers, **more)


def adapted(
    fields: dict[str, Any] | bytes | None = None,
    *,
    betas: str = "",
    model: str = NEWER,
    service: Service = "bedrock",
    counting: bool = False,
    **rules: Any,
) -> Adaptation:
    return adapt(call_of(fields, betas=betas, counting=counting), service_rules(service).adjusted(**rules), model)


def sent_fields(fields: dict[str, Any] | bytes, result: Adaptation) -> dict[str, Any]:
    """Return the fields of the request as it would be sent."""
    return json.loads(edited(request_of(fields), without=result.without, changed=result.changed).body)
