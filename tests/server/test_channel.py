"""What a channel hands to its transport."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest

from bud_asgi.server.channel import Channel


class Recording:
    """A transport that records what it is to send."""

    def __init__(self) -> None:
        self.items: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.items.append(data)

    def writelines(self, items: Iterable[bytes]) -> None:
        self.items.extend(items)


@pytest.mark.parametrize("data", [b"", b"body"])
@pytest.mark.parametrize("held", [b"", b"head"])
def test_no_empty_item_is_written_since_asyncio_would_never_get_rid_of_it(held: bytes, data: bytes) -> None:
    transport = Recording()
    channel = Channel(cast("Any", transport), cast("asyncio.AbstractEventLoop", None))
    channel.held = held
    channel.write(data)
    assert transport.items == [item for item in (held, data) if item]
