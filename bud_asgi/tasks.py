"""Work that outlives the request which began it: settlements, callbacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

_log = logging.getLogger("bud_asgi")


class BackgroundTasks:
    """Tasks that somebody owns: kept alive while they run, waited for at shutdown, their failures logged.

    A request that is cancelled can't await in its `finally`; what must be done after it is started here.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine to its end, whatever becomes of the caller."""
        task = asyncio.get_running_loop().create_task(_to_its_end(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def begin(self, work: Callable[[], Coroutine[object, object, None] | None]) -> None:
        """Call what does its work at once, or returns a coroutine that does and is run to its end."""
        try:
            rest = work()
        except Exception:  # noqa: BLE001 - somebody else's work: it must not replace what the request came to
            _log.exception("work after a request failed")
            return
        if rest is not None:
            self.start(rest)

    async def drain(self, timeout: float) -> None:
        """Wait until all have ended, `timeout` seconds at most; what still runs then is cancelled."""
        deadline = asyncio.get_running_loop().time() + timeout
        late: set[asyncio.Task[None]] = set()
        while self._running and not late:
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            _, late = await asyncio.wait(set(self._running), timeout=left)
        for task in late:
            task.cancel()
        if late:
            _log.warning("%d settlements did not end within %g s", len(late), timeout)
            await asyncio.wait(late)


async def _to_its_end(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except Exception:  # noqa: BLE001 - the end of a task: nobody awaits it, so it reports
        _log.exception("work after a request failed")
