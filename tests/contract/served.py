"""A gateway in a process of its own, which tells how much memory it has held at most.

Run as `python served.py UPSTREAM`; it writes its URL, and serves until its standard input ends.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bud_asgi import Anonymous, Anthropic, MessagesApp
from bud_asgi.server import http_protocol
from bud_asgi.testing.server.serving import serving

STATUS = Path("/proc/self/status")


async def _peak(_request: Request) -> PlainTextResponse:
    """In bytes. Linux counts a parent's memory into `ru_maxrss`, but has a better word for it."""
    if STATUS.exists():
        (peak,) = (line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return PlainTextResponse(str(int(peak) * 1024))
    return PlainTextResponse(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def main() -> None:
    """Serve."""
    host = Starlette(routes=[Route("/peak", _peak)])
    messages = MessagesApp(auth=Anonymous(), providers=[Anthropic(api_key="k", base_url=sys.argv[1])])
    messages.install(host, "/llm")
    with serving(host, http=http_protocol) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
