"""A Python process with modules imported that runs other modules in forks of itself: see `support.forked`."""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

_PIPES: dict[int, int] = {}
"""By the id of a fork: the pipe that gets its status."""


def _reap(_signal: int, _frame: object) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pipe = _PIPES.pop(ended[0])
            with suppress(BrokenPipeError):
                os.write(pipe, str(os.waitstatus_to_exitcode(ended[1])).encode())
            os.close(pipe)


def _become(order: dict[str, Any], files: list[int]) -> None:
    """Give a fork the state of a new process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, 1024)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.path[:0] = [order["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv[1:] = order["arguments"]
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=False)  # as that of a process whose stdout is a pipe


def _next_order(server: socket.socket) -> str:
    """Serve orders until the end. Returns only in a fork: the name of the module that it runs."""
    while True:
        message, files, _flags, _address = socket.recv_fds(server, 1 << 20, 4)
        if not message:
            sys.exit()
        while not message.endswith(b"\n"):
            message += server.recv(1 << 20)
        order: dict[str, Any] = json.loads(message)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # until its pipe is known
        if (process := os.fork()) == 0:
            server.detach()
            _become(order, files[:3])
            return order["module"]
        _PIPES[process] = files[3]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        for file in files[:3]:
            os.close(file)
        server.sendall(b"%d\n" % process)


if __name__ == "__main__":
    del sys.path[0]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _name in sys.argv[2:]:
        importlib.import_module(_name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, _reap)
    runpy.run_module(_next_order(socket.socket(fileno=int(sys.argv[1]))), run_name="__main__", alter_sys=True)
