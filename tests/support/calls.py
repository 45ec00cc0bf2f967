"""The usual call: the credentials of both sides, and a request that every gateway of the tests accepts."""

from __future__ import annotations

from typing import Any

KEY = "sk-bud-the-callers-key"
UPSTREAM_KEY = "sk-ant-the-operators-key"
MODEL = "claude-haiku-4-5"
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
