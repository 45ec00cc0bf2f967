"""A request to count tokens: judged like one for a Message, but for what a count does without."""

from __future__ import annotations

import pytest

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.request import decode_request

LEAST = b'{"model":"m","messages":[{}]}'


def test_a_limit_is_not_needed() -> None:
    request = decode_request(LEAST, counting=True)
    assert (request.model, request.max_tokens, request.stream, request.counting) == ("m", None, False, True)
    with pytest.raises(InvalidRequest, match=r"^max_tokens: Field required$"):
        decode_request(LEAST)


def test_a_limit_is_read_where_it_is_there() -> None:
    assert decode_request(LEAST[:-1] + b',"max_tokens":1e3}', counting=True).max_tokens == 1000


@pytest.mark.parametrize("value", [b"true", b"false"])
def test_a_count_is_never_a_stream(value: bytes) -> None:
    sent = LEAST[:-1] + b',"max_tokens":1,"stream":' + value + b"}"
    assert decode_request(sent, counting=True).stream is False
    assert decode_request(sent).stream is (value == b"true")


REFUSED: dict[str, tuple[bytes, str]] = {
    "no model": (b'{"messages":[{}]}', "model: Field required"),
    "no messages": (b'{"model":"m"}', "messages: Field required"),
    "an empty conversation": (b'{"model":"m","messages":[]}', "messages: at least one message is required"),
    "a limit that is none": (LEAST[:-1] + b',"max_tokens":null}', "max_tokens: Input should be a valid integer"),
    "a stream that is none": (LEAST[:-1] + b',"stream":1}', "stream: Input should be a valid boolean"),
}


@pytest.mark.parametrize(("sent", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_the_rest_is_judged_as_ever(sent: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_request(sent, counting=True)
    assert str(refused.value) == words
