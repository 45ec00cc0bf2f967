"""A request to count tokens: validated like one for a Message, except that `max_tokens` is optional."""

from __future__ import annotations

import pytest

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.request import decode_request

MINIMAL = b'{"model":"m","messages":[{}]}'


def test_max_tokens_is_optional() -> None:
    request = decode_request(MINIMAL, counting=True)
    assert (request.model, request.max_tokens, request.stream, request.counting) == ("m", None, False, True)
    with pytest.raises(InvalidRequest, match=r"^max_tokens: Field required$"):
        decode_request(MINIMAL)


def test_max_tokens_is_read_if_present() -> None:
    assert decode_request(MINIMAL[:-1] + b',"max_tokens":1e3}', counting=True).max_tokens == 1000


@pytest.mark.parametrize("value", [b"true", b"false"])
def test_a_count_is_never_a_stream(value: bytes) -> None:
    sent = MINIMAL[:-1] + b',"max_tokens":1,"stream":' + value + b"}"
    assert decode_request(sent, counting=True).stream is False
    assert decode_request(sent).stream is (value == b"true")


REFUSED: dict[str, tuple[bytes, str]] = {
    "no model": (b'{"messages":[{}]}', "model: Field required"),
    "no messages": (b'{"model":"m"}', "messages: Field required"),
    "an empty conversation": (b'{"model":"m","messages":[]}', "messages: at least one message is required"),
    "a null max_tokens": (MINIMAL[:-1] + b',"max_tokens":null}', "max_tokens: Input should be a valid integer"),
    "a stream that is not a boolean": (MINIMAL[:-1] + b',"stream":1}', "stream: Input should be a valid boolean"),
}


@pytest.mark.parametrize(("sent", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_everything_else_is_validated_alike(sent: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_request(sent, counting=True)
    assert str(refused.value) == message
