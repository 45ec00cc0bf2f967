"""`python -m MODULE` in a process of its own, without the time that its imports take.

A server with the modules imported forks for each process. It is started when it is first used.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self


class ForkServer:
    """The server, which ends with this process. `imports` are the modules that its forks have from the start."""

    def __init__(self, python: Sequence[str], imports: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        script = str(Path(__file__).with_name("fork_server.py"))
        command = [*python, script, str(theirs.fileno()), *imports]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        atexit.register(self.close)

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()

    def run(self, order: Mapping[str, object], files: Sequence[int]) -> int:
        """Fork a process that runs a module; returns its id."""
        socket.send_fds(self._socket, [json.dumps(order).encode() + b"\n"], files)
        reply = b""
        while not reply.endswith(b"\n"):
            received = self._socket.recv(100)
            assert received, "the server of forks has ended"
            reply += received
        return int(reply)


@cache
def fork_server(*imports: str, python: Sequence[str] = (sys.executable, "-W", "error")) -> ForkServer:
    """The server of these imports, and of an interpreter with options. It is the same for the same arguments."""
    return ForkServer(python, imports)


class ForkedProcess:
    """Like a `Popen[str]` of `python -m module` whose stdout and stderr are pipes."""

    def __init__(
        self,
        server: ForkServer,
        module: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        out, err, self._status = os.pipe(), os.pipe(), os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        theirs = [null, out[1], err[1], self._status[1]]
        order = {"module": module, "arguments": list(arguments), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        try:
            self.pid = server.run(order, theirs)
        finally:
            for file in theirs:
                os.close(file)
        self.stdout, self.stderr = os.fdopen(out[0]), os.fdopen(err[0])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its status if it has ended."""
        if self.returncode is None and select.select([self._status[0]], [], [], 0)[0]:
            self.returncode = int(os.read(self._status[0], 100))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; its status. Raises `TimeoutExpired` after `timeout` seconds."""
        if not select.select([self._status[0]], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.wait()
        self.stdout.close()
        self.stderr.close()
        os.close(self._status[0])
