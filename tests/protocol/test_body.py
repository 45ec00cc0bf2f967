"""Reading a body: its size, its declared length, its UTF-8."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bodies import take_in
from support.counts import examples

from bud_asgi.protocol.body import DEFAULT_MAX_BODY, BodyReader, declared_size
from bud_asgi.protocol.errors import InvalidRequest, RequestTooLarge

NOT_UTF_8: dict[str, tuple[tuple[bytes, ...], str]] = {
    "an invalid start byte": ((b'{"\xff":1}',), "invalid start byte"),
    "a stray continuation byte": ((b"a\x80b",), "invalid start byte"),
    "a truncated character": ((b"\xc3(",), "invalid continuation byte"),
    "a character truncated in the next chunk": ((b"\xe2\x82", b'"'), "invalid continuation byte"),
    "a surrogate written as bytes": ((b"\xed\xa0\xbd",), "invalid continuation byte"),
    "a surrogate over two chunks": ((b"\xed", b"\xa0\xbd"), "invalid continuation byte"),
    "an overlong slash": ((b"\xc0\xaf",), "invalid start byte"),
    "an overlong slash of three bytes": ((b"\xe0\x80\xaf",), "invalid continuation byte"),
    "a character beyond the last": ((b"\xf4\x90\x80\x80",), "invalid continuation byte"),
    "an end inside a character": ((b'{"a":"\xe2\x82',), "unexpected end of data"),
    "an end inside a character, its bytes one by one": ((b"\xf0", b"\x9f", b"\x98"), "unexpected end of data"),
}


@pytest.mark.parametrize(("chunks", "reason"), NOT_UTF_8.values(), ids=NOT_UTF_8.keys())
def test_invalid_utf_8_is_refused(chunks: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        take_in(*chunks)
    assert str(refused.value) == f"The request body is not valid JSON: it is not UTF-8 ({reason})"
    assert refused.value.__cause__ is None


def test_an_invalid_byte_is_refused_as_soon_as_it_arrives() -> None:
    reader = BodyReader(100)
    reader.feed(b"abc")
    with pytest.raises(InvalidRequest, match="invalid start byte"):
        reader.feed(b"\xff")


@pytest.mark.torture
@examples()
@given(text=st.text(), cuts=st.lists(st.integers(0, 200)))
def test_text_is_read_wherever_its_bytes_are_cut(text: str, cuts: list[int]) -> None:
    whole = text.encode()
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    assert take_in(*(whole[a:b] for a, b in pairwise(edges))) == whole


@pytest.mark.torture
@examples()
@given(chunks=st.lists(st.binary(max_size=6)))
def test_bytes_are_accepted_exactly_if_python_decodes_them_as_utf_8(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    try:
        whole.decode()
    except UnicodeDecodeError:
        with pytest.raises(InvalidRequest):
            take_in(*chunks)
    else:
        assert take_in(*chunks) == whole


def test_a_body_in_one_chunk_is_not_copied() -> None:
    chunk = b"x" * 1000
    assert take_in(chunk) is chunk


def test_a_body_without_chunks_is_empty() -> None:
    assert take_in() == b""
    assert take_in(b"", b"") == b""


@pytest.mark.parametrize("chunks", [(b"12345678",), (b"1234", b"5678"), (b"", b"12345678", b"")])
def test_a_body_may_be_as_large_as_the_limit(chunks: tuple[bytes, ...]) -> None:
    assert take_in(*chunks, max_body=8) == b"12345678"


@pytest.mark.parametrize("chunks", [(b"123456789",), (b"1234", b"5678", b"9"), (b"1234", b"56789")])
def test_a_body_over_the_limit_is_refused_at_the_first_byte_past_it(chunks: tuple[bytes, ...]) -> None:
    reader = BodyReader(8)
    for chunk in chunks[:-1]:
        reader.feed(chunk)
    with pytest.raises(RequestTooLarge) as refused:
        reader.feed(chunks[-1])
    assert str(refused.value) == "Request exceeds the maximum size of 8 bytes"
    assert (refused.value.status, refused.value.type) == (413, "request_too_large")


def test_the_size_is_checked_before_utf_8() -> None:
    with pytest.raises(RequestTooLarge):
        take_in(b"\xff\xff", max_body=1)


def test_the_size_counts_bytes() -> None:
    reader = BodyReader(DEFAULT_MAX_BODY)
    reader.feed("é".encode())
    reader.feed(b"ab")
    assert reader.size == 4
    assert DEFAULT_MAX_BODY == 33_554_432


@pytest.mark.parametrize("declared", [None, b"0", b"8", b"00000000000000000008"])
def test_a_declared_length_within_the_limit_or_none_is_accepted(declared: bytes | None) -> None:
    declared_size(declared, 8)


@pytest.mark.parametrize("declared", [b"9", b"33554433", b"99999999999999999999"])
def test_a_declared_length_over_the_limit_is_refused_before_the_first_byte(declared: bytes) -> None:
    with pytest.raises(RequestTooLarge, match=r"^Request exceeds the maximum size of 8 bytes$"):
        declared_size(declared, 8)


@pytest.mark.parametrize("declared", [b"", b"-1", b"+1", b" 1", b"1 ", b"1.0", b"0x1", b"1, 1", b"a", b"\xb2", b"1_0"])
def test_a_declared_length_that_is_not_a_number_is_refused(declared: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^content-length: Input should be a valid integer$"):
        declared_size(declared, 8)


def test_a_declared_length_of_ten_thousand_digits_is_refused_without_being_parsed() -> None:
    with pytest.raises(InvalidRequest, match=r"^content-length: Input should be a valid integer$"):
        declared_size(b"9" * 10_000, 8)
