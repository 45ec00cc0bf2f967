"""Content codings that were not requested: decompressed in bounded steps, or rejected."""

from __future__ import annotations

import gzip
import zlib
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.http import HttpError, HttpReply, decode_content, read_body
from bud_asgi.http.encoding import MAX_STEP

TEXT = b'{"type":"message","text":"' + b"all sorts of words " * 50 + b'"}'


class Reply:
    """A reply in pieces."""

    status = 200

    def __init__(
        self, *pieces: bytes, coding: bytes | None = b"gzip", more: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        lines = () if coding is None else ((b"content-encoding", coding),)
        self.headers = ((b"content-type", b"x"), (b"content-length", b"7"), *lines, *more)
        self.pieces = list(pieces)
        self.closed = 0

    @property
    def done(self) -> bool:
        return not self.pieces

    def take(self) -> bytes:
        return b""

    async def more(self, within: float = inf) -> bytes | None:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed += 1


def deflated(data: bytes, bits: int) -> bytes:
    compress = zlib.compressobj(wbits=bits)
    return compress.compress(data) + compress.flush()


async def whole(reply: HttpReply) -> bytes:
    body, complete = await read_body(reply, 1 << 30)
    assert complete
    return body


CODED: dict[str, tuple[bytes, bytes]] = {
    "gzip": (b"gzip", gzip.compress(TEXT)),
    "gzip by its old name": (b"X-Gzip", gzip.compress(TEXT)),
    "after identity": (b"identity, gzip", gzip.compress(TEXT)),
    "deflate with a header": (b"deflate", zlib.compress(TEXT)),
    "deflate without one": (b"deflate", deflated(TEXT, -15)),
    "several members": (b"gzip", gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:])),
    "members with padding": (b"gzip", gzip.compress(TEXT[:100]) + b"\0" * 9 + gzip.compress(TEXT[100:]) + b"\0\0"),
    "something behind gzip": (b"gzip", gzip.compress(TEXT) + b"garbage"),
    "one byte behind gzip": (b"gzip", gzip.compress(TEXT) + b"\x1f"),
    "something behind deflate": (b"deflate", zlib.compress(TEXT) + b"garbage"),
}


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize(("coding", "packed"), CODED.values(), ids=CODED.keys())
async def test_a_compressed_reply_is_decompressed(coding: bytes, packed: bytes, size: int) -> None:
    reply = Reply(*(packed[at : at + size] for at in range(0, len(packed), size)), coding=coding)
    decoded = decode_content(reply)
    assert list(decoded.headers) == [(b"content-type", b"x")]
    assert await whole(decoded) == TEXT
    assert (await decoded.more(), decoded.take()) == (b"", b"")
    decoded.close()
    assert reply.closed == 1


@examples(30, 2_000)
@given(data=st.data(), text=st.binary(max_size=300))
async def test_any_cut_is_an_error(data: st.DataObject, text: bytes) -> None:
    coding, packed = data.draw(st.sampled_from([(b"gzip", gzip.compress(text)), (b"deflate", zlib.compress(text))]))
    decoded = decode_content(Reply(packed[: data.draw(st.integers(0, len(packed) - 1))], coding=coding))
    with pytest.raises(HttpError) as failed:
        await whole(decoded)
    assert (failed.value.kind, failed.value.sent, failed.value.answered) == ("protocol", True, True)
    assert not decoded.done


@pytest.mark.parametrize(
    "body",
    [b"not gzip at all", b"\x1f\x8bxx", gzip.compress(TEXT) + b"\x1f\x8bxx"],
    ids=["text", "a broken head", "a broken second member"],
)
async def test_what_is_not_compressed_is_an_error(body: bytes) -> None:
    with pytest.raises(HttpError, match="compressed body is invalid"):
        await whole(decode_content(Reply(body)))


@pytest.mark.parametrize("coding", [None, b"", b"identity", b" Identity , identity"])
def test_a_reply_without_a_coding_is_returned_as_it_is(coding: bytes | None) -> None:
    reply = Reply(b"x", coding=coding)
    assert decode_content(reply) is reply


REJECTED: list[tuple[bytes, tuple[tuple[bytes, bytes], ...]]] = [
    (b"br", ()),
    (b"zstd", ()),
    (b"compress", ()),
    (b"gzip, gzip", ()),
    (b"gzip", ((b"content-encoding", b"gzip"),)),
    (b"gzip", ((b"content-encoding", b"br"),)),
    (b"\x1b[31m\xff" + b"x" * 9000, ()),
]


@pytest.mark.parametrize(("coding", "more"), REJECTED)
def test_another_coding_is_rejected_and_named_on_one_line(coding: bytes, more: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(HttpError, match=r"^cannot decode the content-encoding '") as failed:
        decode_content(Reply(b"x", coding=coding, more=more))
    assert str(failed.value).isprintable()
    assert len(str(failed.value)) < 200


async def test_a_bomb_is_decompressed_in_bounded_steps() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    decoded = decode_content(Reply(bomb[:50], bomb[50:]))
    sizes: list[int] = []
    while not decoded.done:
        sizes.append(len(await decoded.more() or b""))
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= MAX_STEP


async def test_events_are_decompressed_as_they_are_flushed() -> None:
    compress = zlib.compressobj(wbits=31)
    pieces = [compress.compress(event) + compress.flush(zlib.Z_SYNC_FLUSH) for event in (b"one", b"two", b"three")]
    decoded = decode_content(Reply(*pieces, compress.flush()))
    assert [await decoded.more() for _ in range(4)] == [b"one", b"two", b"three", b""]
