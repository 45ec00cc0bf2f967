"""The message in an error body that is not the Messages API's: what proxies, frameworks and other APIs send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import msgspec

from bud_asgi.protocol.malformed import MALFORMED_JSON

_NAMES = ("message", "Message", "error", "detail", "msg", "error_description", "errors", "title")
"""The fields that hold the message, or an object or list with it, in the order in which they are looked at.

OpenAI and Google: `error.message`. Ollama: `error`. FastAPI: `detail`, a text or a list of objects with `msg`. vLLM:
`message`. OAuth (RFC 6749): `error_description`. RFC 9457: `detail`, `title`. AWS: `message`, `Message`.
"""
_MAX_DEPTH = 3
_MARKUP = re.compile(r"<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)


def error_text(body: bytes) -> str | None:
    """Return the message in a JSON error body, unchanged; `None` if it has none, is not JSON, or contains a page."""
    try:
        decoded = msgspec.json.decode(body, type=object)
    except MALFORMED_JSON:
        return None
    text = _find_text(decoded, _MAX_DEPTH)
    return None if text is None or _MARKUP.search(text) else text


def _find_text(value: object, depth: int) -> str | None:
    if isinstance(value, str):
        return value if value.strip() and depth < _MAX_DEPTH else None
    if not depth:
        return None
    if isinstance(value, list):
        items = cast("list[object]", value)
        return _find_text(items[0], depth - 1) if items else None
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        texts = (_find_text(fields[name], depth - 1) for name in _NAMES if name in fields)
        return next((text for text in texts if text is not None), None)
    return None
