"""Request bodies for tests, and the steps that read and decode one."""

from __future__ import annotations

import pytest

from bud_asgi.protocol.body import DEFAULT_MAX_BODY, BodyReader
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.request import MessagesRequest, check_unknown_size, decode_request


def body(more: bytes = b"", *, model: bytes = b'"m"', messages: bytes = b"[{}]", max_tokens: bytes = b"1") -> bytes:
    """A body with the required fields, followed by `more`."""
    return b'{"model":%b,"messages":%b,"max_tokens":%b%b}' % (model, messages, max_tokens, more)


def take_in(*chunks: bytes, max_body: int = DEFAULT_MAX_BODY) -> bytes:
    """Read chunks with a `BodyReader`."""
    reader = BodyReader(max_body)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()


def decode(*chunks: bytes) -> MessagesRequest:
    """Read and decode chunks."""
    whole = take_in(*chunks)
    check_unknown_size(whole)
    return decode_request(whole)


def refusal(*chunks: bytes) -> str:
    """The message of the error with which chunks are refused."""
    with pytest.raises(InvalidRequest) as refused:
        decode(*chunks)
    assert (refused.value.status, refused.value.type) == (400, "invalid_request_error")
    return str(refused.value)
