"""What a running gateway keeps in memory."""

from __future__ import annotations

import tracemalloc


def request_body_bytes() -> int:
    """Bytes of whole request bodies in memory, counted where they are put together, and copied to be edited.

    `tracemalloc` must be running.
    """
    return _bytes_of("*/protocol/body.py", "*/protocol/request.py", "*/protocol/thinking.py")


def reply_bytes() -> int:
    """Bytes of upstreams' replies in memory, counted where they are parsed and put together.

    `tracemalloc` must be running.
    """
    return _bytes_of("*/bud_asgi/http/parser.py", "*/bud_asgi/http/reply.py", "*/bud_asgi/protocol/sse.py")


def _bytes_of(*files: str) -> int:
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, file) for file in files])
    return sum(trace.size for trace in snapshot.traces)
