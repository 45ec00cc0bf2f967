"""Mount the app in a host, serve a request and shut down. Prints the state of the process at each step."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import warnings
from typing import Any


def state() -> dict[str, Any]:
    """The global state of a process that a library could change."""
    root = logging.getLogger()
    loggers = [
        root,
        *(known for known in logging.Logger.manager.loggerDict.values() if isinstance(known, logging.Logger)),
    ]
    return {
        "handlers": sorted(f"{one.name}: {kind!r}" for one in loggers for kind in one.handlers),
        "levels": sorted(f"{one.name}: {one.level}" for one in loggers if one.level),
        "propagation": sorted(one.name for one in loggers if not one.propagate),
        "logging": [repr(logging.getLoggerClass()), repr(logging.getLogRecordFactory()), logging.root.manager.disable],
        "signals": [str(signal.getsignal(number)).partition(",")[0] for number in sorted(signal.valid_signals())],
        "warnings": [repr(entry) for entry in warnings.filters],
        "environment": dict(os.environ),
        "policy": repr(getattr(asyncio.events, "_event_loop_policy", None)).partition(" object")[0],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "hooks": [repr(hook) for hook in (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook)],
        "path": list(sys.path),
        "directory": str(os.getcwd()),  # noqa: PTH109 - the state of the process itself
        "recursion": sys.getrecursionlimit(),
        "umask": _umask(),
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def main(upstream_url: str) -> None:
    import httpx
    import starlette.applications
    import starlette.authentication
    import starlette.middleware

    assert starlette.authentication
    assert starlette.middleware
    asyncio.run(asyncio.sleep(0))  # the first event loop of a process sets the policy
    before = state()

    from bud_asgi import Anonymous, Anthropic, MessagesApp

    imported = state()
    host = starlette.applications.Starlette()
    messages = MessagesApp(
        auth=Anonymous(), providers=[Anthropic(api_key="sk-ant-the-operators-key", base_url=upstream_url)]
    )
    messages.install(host, "/llm")

    async def serve() -> tuple[dict[str, Any], dict[str, Any]]:
        await asyncio.to_thread(int)  # starts the loop's thread pool, which looks up host names
        inside = state()
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
        async with (
            host.router.lifespan_context(host),
            httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://host") as client,
        ):
            reply = await client.post("/llm/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"})
            assert reply.status_code == 200, reply.text
            during = state()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == [], left
        return inside, during

    inside, served = asyncio.run(serve())
    moments = {"before": before, "imported": imported, "in a loop": inside, "served": served, "after": state()}
    print(json.dumps(moments))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
