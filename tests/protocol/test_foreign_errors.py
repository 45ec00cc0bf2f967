"""The message in an error body of another form."""

from __future__ import annotations

import pytest

from bud_asgi.protocol.foreign_errors import error_text

FOUND: dict[str, tuple[bytes, str | None]] = {
    "OpenAI's": (b'{"error":{"message":"no","type":"x","param":null,"code":1}}', "no"),
    "Ollama's": (b'{"error":"model not found"}', "model not found"),
    "FastAPI's": (b'{"detail":"Not Found"}', "Not Found"),
    "FastAPI's list": (b'{"detail":[{"loc":["body"],"msg":"Field required"}]}', "Field required"),
    "vLLM's": (b'{"object":"error","message":"too long","type":"BadRequestError","code":400}', "too long"),
    "AWS's": (b'{"Message":"no"}', "no"),
    "Google's list": (b'[{"error":{"code":429,"message":"quota","status":"X"}}]', "quota"),
    "OAuth's": (b'{"error":"invalid_grant","error_description":"x"}', "invalid_grant"),
    "RFC 9457's": (b'{"type":"about:blank","title":"Too large","status":413}', "Too large"),
    "several fields": (b'{"timestamp":1,"error":"Not Found","message":"No route","status":404}', "No route"),
    "white space is kept for who escapes it": (b'{"detail":"a\\nb"}', "a\nb"),
    "an empty message": (b'{"message":" ","detail":"x"}', "x"),
    "a number": (b'{"error":7}', None),
    "an empty object": (b"{}", None),
    "an empty list": (b'{"detail":[]}', None),
    "a bare string": (b'"no"', None),
    "too deep": (b'{"error":{"error":{"error":{"error":"x"}}}}', None),
    "a page in JSON": (b'{"detail":"<!DOCTYPE html><p>x"}', None),
    "a page": (b"<html>", None),
    "plain text": (b"no", None),
    "nothing": (b"", None),
    "cut": (b'{"detail":"a', None),
    "not UTF-8": (b'{"detail":"\xff"}', None),
    "nested too deeply": (b'{"a":' + b"[" * 100_000, None),
}


@pytest.mark.parametrize(("body", "text"), FOUND.values(), ids=FOUND.keys())
def test_the_message_of_a_known_form_is_found(body: bytes, text: str | None) -> None:
    assert error_text(body) == text
