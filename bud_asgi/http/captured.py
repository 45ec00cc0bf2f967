"""A reply whose bytes are also given to something else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf

from bud_asgi.http.fields import Header
from bud_asgi.http.seam import HttpReply

_log = logging.getLogger("bud_asgi")


class CapturedReply:
    """A reply that calls a function with the bytes that are read from it, until that raises."""

    def __init__(self, reply: HttpReply, capture: Callable[[bytes], None]) -> None:
        self._reply = reply
        self._capture: Callable[[bytes], None] | None = capture

    @property
    def status(self) -> int:
        """The status of the reply."""
        return self._reply.status

    @property
    def headers(self) -> Sequence[Header]:
        """The headers of the reply."""
        return self._reply.headers

    @property
    def done(self) -> bool:
        """Whether the whole reply has been received."""
        return self._reply.done

    def take(self) -> bytes:
        """Remove and return the bytes received so far."""
        chunk = self._reply.take()
        self._give(chunk)
        return chunk

    async def more(self, within: float = inf) -> bytes | None:
        """Wait for bytes. Raises what the reply raises."""
        chunk = await self._reply.more(within)
        if chunk:
            self._give(chunk)
        return chunk

    def close(self) -> None:
        """Close the reply."""
        self._reply.close()

    def _give(self, chunk: bytes) -> None:
        if self._capture is None:
            return
        try:
            self._capture(chunk)
        except Exception:  # noqa: BLE001 - code of an observer, which must not change the request
            _log.exception("an observer failed to capture a reply")
            self._capture = None
