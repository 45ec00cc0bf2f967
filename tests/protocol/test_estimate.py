"""Estimates of usage: near the service's own counts, whatever the form and the cutting of a stream."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples
from support.streams import RECORDED, cut, event, parse, start

from bud_asgi.protocol import estimate
from bud_asgi.protocol.estimate import estimated_input, may_have_files
from bud_asgi.protocol.sse import EventStream
from bud_asgi.protocol.usage import Usage

WORDS = ("The quick brown fox jumps over the lazy dog, and then it rests for a while. " * 60).split(" ")


def output(chunks: Iterable[bytes]) -> int:
    stream = EventStream()
    for chunk in chunks:
        stream.feed(chunk)
    assert stream.usage is not None
    assert stream.usage.estimated
    assert stream.usage.output_tokens is not None
    return stream.usage.output_tokens


def block(kind: str, pieces: Iterable[str], *, index: int = 0, padded: bool = True) -> bytes:
    """A block in the form of the service, compact and padded."""
    chance = random.Random(7)
    named, field = {
        "text": ("text", "text"),
        "thinking": ("thinking", "thinking"),
        "tool_use": ("input_json", "partial_json"),
    }[kind]
    opening = {"type": "content_block_start", "index": index, "content_block": {"type": kind, "text": ""}}
    events = [opening]
    events += [
        {"type": "content_block_delta", "index": index, "delta": {"type": f"{named}_delta", field: piece}}
        for piece in pieces
    ]
    events += [{"type": "content_block_stop", "index": index}]
    lines = [json.dumps(one, separators=(",", ":"), ensure_ascii=False) for one in events]
    padding = [" " * (chance.randrange(16) if padded else 0) for _ in events]
    return b"".join(
        f"event: {one['type']}\ndata: {line[:-1]}{space}}}\n\n".encode()
        for one, line, space in zip(events, lines, padding, strict=True)
    )


BEGINNING = start(input_tokens=3, output_tokens=1)
TINY = [f" {word}" for word in WORDS]
SIZE = sum(len(word) for word in TINY)


@pytest.mark.parametrize("size", [1, 50, 130, 1000, 64 << 10])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", ["text", "thinking", "tool_use"])
def test_many_small_events_count_by_their_content(kind: str, padded: bool, size: int) -> None:
    wire = BEGINNING + block(kind, TINY, padded=padded)
    assert output(cut(wire, size)) == pytest.approx(SIZE / 3.6, rel=0.15)


def test_one_event_in_a_chunk_counts_by_its_content() -> None:
    events = block("text", TINY).split(b"\n\n")[:-1]
    assert output([BEGINNING, *(one + b"\n\n" for one in events)]) == pytest.approx(SIZE / 3.6, rel=0.1)


@pytest.mark.parametrize("size", [1000, 256 << 10])
def test_few_large_events_count_by_their_content(size: int) -> None:
    wire = BEGINNING + block("text", ["x" * 100_000, "y", "z" * 300_000])
    assert output(cut(wire, size)) == pytest.approx(400_001 / 3.6, rel=0.01)


def test_an_event_too_large_to_be_held_counts_by_its_size() -> None:
    stream = EventStream(max_event=2000)
    for chunk in cut(BEGINNING + block("text", ["x" * 100_000]), 999):
        stream.feed(chunk)
    assert stream.usage is not None
    assert stream.usage.output_tokens == pytest.approx(100_000 / 3.6, rel=0.01)


@pytest.mark.parametrize(
    "mark",
    ["content_block_delta", '"type":"content_block_delta"', "\n\nevent: x", 'a_delta","text":"', "}\n\n", '"} }}'],
)
def test_text_that_resembles_events_counts_like_any_other(mark: str) -> None:
    wire = BEGINNING + block("text", [mark] * 400)
    size = 400 * (len(json.dumps(mark)) - 2)
    for cutting in (130, 5000, 100_000):
        assert output(cut(wire, cutting)) == pytest.approx(size / 3.6, rel=0.2)


def test_blocks_of_all_kinds_and_pings_between_them_are_told_apart() -> None:
    ping = event("ping")
    parts = [block(kind, TINY, index=n) for n, kind in enumerate(("thinking", "text", "tool_use", "text"))]
    results = event(
        "content_block_start", index=9, content_block={"type": "web_search_tool_result", "content": ["x" * 50_000]}
    )
    wire = BEGINNING + ping.join(parts) + results + ping * 500
    for size in (100, 3000, 1 << 20):
        assert output(cut(wire, size)) == pytest.approx(4 * SIZE / 3.6, rel=0.15)


@pytest.mark.parametrize("form", ["keys in another order", "blanks", "blanks before brackets", "escapes"])
def test_other_writers_of_json_count_alike(form: str) -> None:
    def write(piece: str) -> bytes:
        data = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        text = json.dumps(data, sort_keys=form == "keys in another order", indent=None, ensure_ascii=form == "escapes")
        if form == "blanks before brackets":
            text = text.replace('"}}', '" } }')
        return b"event: content_block_delta\ndata: " + text.encode() + b"\n\n"

    wire = BEGINNING + b"".join(map(write, TINY))
    for size in (77, 100_000):
        assert output(cut(wire, size)) == pytest.approx(SIZE / 3.6, rel=0.1)


def test_thinking_that_is_not_shown_counts_by_its_signature() -> None:
    """Recorded: 540 bytes for 47 tokens, 1,688 for 261, and 520 for 44 that are redacted."""
    for size, tokens in ((540, 47), (1688, 261)):
        signature = event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x" * size})
        assert output([BEGINNING + block("thinking", []) + signature]) == pytest.approx(tokens, abs=10)
        assert output([BEGINNING + block("thinking", ["x" * tokens * 5]) + signature]) < tokens * 1.5
    redacted = event("content_block_start", index=0, content_block={"type": "redacted_thinking", "data": "x" * 520})
    assert output([BEGINNING + redacted]) == pytest.approx(44, abs=10)


@pytest.mark.torture
@examples(50)
@given(
    kinds=st.lists(st.sampled_from(["text", "thinking", "tool_use"]), min_size=1, max_size=4),
    pieces=st.lists(st.text(max_size=30), max_size=60),
    size=st.integers(1, 4000),
)
def test_the_cutting_hardly_changes_an_estimate(kinds: list[str], pieces: list[str], size: int) -> None:
    wire = BEGINNING + b"".join(block(kind, pieces, index=n) for n, kind in enumerate(kinds))
    whole = output([wire])
    assert output(cut(wire, size)) == pytest.approx(whole, rel=0.2, abs=10 + len(pieces))


@pytest.mark.skipif(not RECORDED, reason="no folder of recorded streams")
@pytest.mark.parametrize("name", RECORDED)
def test_an_estimate_is_near_the_count_of_the_service(name: str) -> None:
    wire = RECORDED[name]
    counts = [json.loads(data)["usage"]["output_tokens"] for named, data in parse(wire) if named == "message_delta"]
    before = wire[: wire.rfind(b"event: message_delta")]
    for size in (150, 997, 100_000):
        assert counts[-1] / 1.5 - 3 <= output(cut(before, size)) <= counts[-1] * 1.5 + 3


def test_an_input_is_estimated_by_the_size_of_its_body() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": " ".join(WORDS)}]}).encode()
    assert estimated_input(body) == Usage(round(len(body) / 3.6), estimated=True)
    assert estimated_input(b"") == Usage(0, estimated=True)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_file_counts_as_a_fixed_number_of_tokens(separators: tuple[str, str]) -> None:
    def image(size: int) -> dict[str, object]:
        data = base64.b64encode(random.Random(size).randbytes(size)).decode()
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}

    body = json.dumps({"messages": [image(1_000_000), image(3000), {"data": "text"}]}, separators=separators).encode()
    tokens = estimated_input(body).input_tokens
    assert tokens == pytest.approx(3000, abs=150)


def test_only_so_many_files_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of millions of such keys would hold the event loop for seconds."""
    monkeypatch.setattr(estimate, "_MOST_FILES", 3)
    data = b'{"data":"%b"},' % (b"A" * 3600)
    assert estimated_input(data * 3 + b" " * 3600).input_tokens == pytest.approx(4500 + 1000, abs=20)
    assert estimated_input(data * 4).input_tokens == pytest.approx(4500 + 1000, abs=20)


def test_samples_tell_whether_files_are_a_large_part_of_a_body() -> None:
    text = json.dumps({"text": " ".join(WORDS) * 200}).encode()
    image = b'"data":"%b"' % base64.b64encode(random.Random(1).randbytes(len(text) // 4))
    assert not may_have_files(text)
    assert may_have_files(text + image)
    assert may_have_files(image + text)
    assert not may_have_files(b"")
    assert not may_have_files(b"A" * 1000)


def test_a_text_is_not_taken_for_a_file() -> None:
    body = json.dumps({"data": " ".join(WORDS)}).encode()
    assert estimated_input(body).input_tokens == round(len(body) / 3.6)
