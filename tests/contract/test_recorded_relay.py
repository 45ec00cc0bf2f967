"""Replies of the real services, and of our own with the same quirks, come through byte for byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.streams import usage_by_json, without_estimate

from bud_asgi.protocol.errors import STATUS_OF_TYPE
from bud_asgi.testing import Reply, json_body, sse
from contract.line import PLAIN, STREAM, Line
from contract.quirks import ERRORS, MESSAGES, STREAMS


class Case(msgspec.Struct, frozen=True):
    """A reply: what it is called, its bytes and status, and whether it is a stream."""

    name: str
    body: bytes
    status: int = 200
    stream: bool = False


def _own() -> Iterator[Case]:
    for name, wire in STREAMS.items():
        yield Case(name, wire, stream=True)
    for name, message in MESSAGES.items():
        yield Case(f"a message: {name}", message)
    for name, (status, error) in ERRORS.items():
        yield Case(f"an error: {name}", error, status)


def _recorded(folder: Path) -> Iterator[Case]:
    for path in sorted(folder.glob("*.sse")):
        yield Case(path.name, path.read_bytes(), stream=True)
    for path in sorted(folder.glob("*.json")):
        told: Any = json.loads(path.read_bytes())
        if not isinstance(told, dict):
            continue  # a table of contents
        if isinstance(told.get("error"), dict):
            yield Case(path.name, path.read_bytes(), STATUS_OF_TYPE.get(told["error"]["type"], 500))
        elif set(told) != {"message"}:  # an error of a cloud's own, which is not in the Messages format
            yield Case(path.name, path.read_bytes())


FOLDER = os.environ.get("BUD_ASGI_RECORDED")
CASES = [*_own(), *(_recorded(Path(FOLDER)) if FOLDER else ())]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_reply_is_relayed_byte_for_byte(case: Case, straight: Line) -> None:
    line = straight.reset()
    asked = STREAM if case.stream else PLAIN
    reply: Reply = sse(case.body) if case.stream else json_body(case.body, status=case.status)
    for piece in (None, 997):
        line.upstream.enqueue(msgspec.structs.replace(reply, piece=piece))
        answer = line.request(asked)
        assert (answer.status, answer.body) == (case.status, case.body)
        account = line.account_of(answer)
        assert account.status == case.status
        if case.stream:
            assert without_estimate(account.usage) == usage_by_json(case.body)
    assert [request.body for request in line.received] == [asked, asked]
