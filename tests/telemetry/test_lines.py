"""Lines are collected and written together; an unread or closed stream never blocks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from bud_asgi import Exchange
from bud_asgi.telemetry import AccessLog, LineHandler, access_line, encode_line, flush_access_log
from bud_asgi.telemetry.access_fields import encode_lines

LINE = b"x" * 99


def exchange() -> Exchange:
    return Exchange.of({"type": "http", "method": "POST", "path": "/v1/messages", "headers": []})


class Pipe:
    """A pipe with a handler on its one end."""

    def __init__(self) -> None:
        self.end, descriptor = os.pipe()
        self.stream = os.fdopen(descriptor, "w")
        self.handler = LineHandler(self.stream)

    def read(self) -> bytes:
        """All that is in the pipe."""
        received = b""
        os.set_blocking(self.end, False)
        with suppress(BlockingIOError):
            while chunk := os.read(self.end, 1 << 20):
                received += chunk
        return received


@pytest.fixture
def pipe() -> Generator[Pipe]:
    one = Pipe()
    yield one
    for close in (lambda: os.close(one.end), one.stream.close):
        with suppress(OSError):
            close()


async def test_lines_are_written_together_after_a_quarter_of_a_second(pipe: Pipe) -> None:
    for number in range(10):
        pipe.handler.add(b"%d" % number)
    assert pipe.read() == b""
    await asyncio.sleep(0.4)
    assert pipe.read() == b"".join(b"%d\n" % number for number in range(10))
    pipe.handler.add(b"later")
    await asyncio.sleep(0.4)
    assert pipe.read() == b"later\n"


async def test_no_timer_is_left_when_the_lines_of_requests_are_written(pipe: Pipe) -> None:
    pipe.handler.add_access_line(access_line(exchange(), 0.0))
    await asyncio.sleep(0.4)
    assert pipe.read().endswith(b"}\n")
    assert pipe.handler._timer is None


async def test_many_lines_do_not_wait(pipe: Pipe) -> None:
    for _ in range(1000):
        pipe.handler.add(LINE)
    written = pipe.read()
    assert len(written) >= 60_000
    assert set(written.split(b"\n")) == {LINE, b""}
    pipe.handler.flush()
    assert len(written + pipe.read()) == 100_000


def test_outside_of_a_loop_a_line_is_written_at_once(pipe: Pipe) -> None:
    pipe.handler.handle(logging.makeLogRecord({"msg": "one \udcff"}))
    assert json.loads(pipe.read())["message"] == r"one \udcff"


async def test_a_flush_writes_what_waits(pipe: Pipe) -> None:
    pipe.handler.add(b"one")
    pipe.handler.flush()
    assert pipe.read() == b"one\n"


async def test_a_line_longer_than_one_write_arrives_whole(pipe: Pipe) -> None:
    for line in (b"a", b"b" * 10_000, b"c"):
        pipe.handler.add(line)
    pipe.handler.flush()
    assert pipe.read() == b"a\n" + b"b" * 10_000 + b"\nc\n"


async def test_a_full_pipe_holds_nothing_up_and_loses_nothing_up_to_a_megabyte(pipe: Pipe) -> None:
    began = time.monotonic()
    for _ in range(8000):
        pipe.handler.add(LINE)
    await asyncio.sleep(0.3)
    assert time.monotonic() - began < 10.0
    received = b""
    deadline = time.monotonic() + 30
    while len(received) < 800_000:
        assert time.monotonic() < deadline, len(received)
        await asyncio.sleep(0.05)
        received += pipe.read()
    assert received == (LINE + b"\n") * 8000


async def test_beyond_a_megabyte_lines_are_dropped_and_counted(
    pipe: Pipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bud_asgi.telemetry.lines._LAST_WAIT", 0.0)  # nothing is read while `flush` waits
    for _ in range(20_000):
        pipe.handler.add(LINE)
    await asyncio.sleep(0.3)
    received = b""
    while chunk := pipe.read():
        received += chunk
        pipe.handler.flush()
    assert set(received.split(b"\n")) == {LINE, b""}
    dropped = 20_000 - received.count(b"\n")
    assert 5000 < dropped < 10_000
    assert caplog.messages == [f"dropped {dropped} log lines: the stream is full or closed"]


async def test_a_closed_pipe_drops_lines_and_raises_nothing(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    os.close(pipe.end)
    for _ in range(3):
        pipe.handler.add(LINE)
        pipe.handler.flush()
    assert caplog.messages == ["dropped 1 log lines: the stream is full or closed"] * 3


async def test_a_file_gets_all_lines_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    write = os.write

    def counting(descriptor: int, data: bytes) -> int:
        writes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counting)
    with (tmp_path / "log").open("w") as file:
        handler = LineHandler(file)
        for _ in range(500):
            handler.add(LINE)
        handler.flush()
    assert writes == [50_000]


def test_the_access_log_hands_its_line_to_a_handler_of_its_own(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("bud_asgi.access")
    monkeypatch.setattr(log, "handlers", [pipe.handler])
    monkeypatch.setattr(log, "propagate", False)
    caplog.set_level(logging.INFO, log.name)
    one = exchange()
    AccessLog().settled(one)
    flush_access_log()
    assert one.request_id.encode() in pipe.read()


async def test_the_lines_of_requests_and_of_records_keep_their_order(pipe: Pipe) -> None:
    shown: list[str] = []
    for number in range(40):
        if number % 18 == 17:
            pipe.handler.handle(logging.makeLogRecord({"msg": f"message {number}"}))
            shown.append(f"message {number}")
        else:
            one = exchange()
            pipe.handler.add_access_line(access_line(one, 0.0))
            shown.append(one.request_id)
    assert pipe.read() == b""
    await asyncio.sleep(0.4)
    lines = [json.loads(line) for line in pipe.read().splitlines()]
    assert [line.get("request_id") or line["message"] for line in lines] == shown


@pytest.mark.parametrize("odd", ["a", "Jürgen", "\x7f\u202e", "\ud800", "\n"])
def test_lines_that_are_encoded_together_are_as_those_encoded_alone(odd: str) -> None:
    lines = [access_line(exchange(), float(number)) for number in range(3)]
    lines[1] = msgspec.structs.replace(lines[1], principal=odd)
    encoded = [encode_line(line) for line in lines]
    assert encode_lines(lines).split(b"\n") == encoded
    assert all(line.decode().isprintable() for line in encoded)
