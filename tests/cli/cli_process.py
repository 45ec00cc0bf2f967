"""The command line as a user runs it: a process, with a file, an environment of its own and plain pipes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support.forked import ForkedProcess, fork_server

from bud_asgi import hash_api_key

BUD_ASGI = [sys.executable, "-W", "error", "-m", "bud_asgi.cli"]
KEY = "sk-bud-CANARY-the-callers"
UPSTREAM_KEY = "sk-ant-CANARY-the-operators"


def environment(**more: str) -> dict[str, str]:
    """Ours without what would configure a gateway, and with what is given."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BUD_ASGI_", "ANTHROPIC_", "NO_COLOR"))
    }
    return {**ours, "ANTHROPIC_API_KEY": UPSTREAM_KEY, **more}


def run(*words: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    with forked(words, environment(**environ), cwd) as process:
        try:
            with ThreadPoolExecutor(1) as reader:
                err = reader.submit(process.stderr.read)
                out = process.stdout.read()
            status = process.wait(30)
        finally:
            process.kill()
    return subprocess.CompletedProcess([*BUD_ASGI, *words], status, out, err.result())


def forked(words: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> ForkedProcess:
    """A process like that of `BUD_ASGI` with these words, started in a tenth of the time."""
    server = fork_server("bud_asgi.cli.commands", "bud_asgi.cli.serve.run")
    return ForkedProcess(server, "bud_asgi.cli", words, env, cwd)


def gateway_file(folder: Path, upstream_url: str = "https://api.anthropic.com", more: str = "") -> Path:
    """A file with one key and one provider; `more` is put at its end."""
    file = folder / "gateway.toml"
    file.write_text(
        f'[providers.anthropic]\nkind = "anthropic"\napi_key = "env:ANTHROPIC_API_KEY"\nbase_url = "{upstream_url}"\n'
        f'\n[[keys]]\nname = "me"\nhash = "{hash_api_key(KEY)}"\n{more}'
    )
    return file


class Served:
    """A server in a process: its address, and what it wrote."""

    def __init__(self, process: subprocess.Popen[str] | ForkedProcess) -> None:
        self.process = process
        self.url = ""
        self.words: list[str] = []
        self.started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Read stderr to its end: the address stands in it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.words.append(line)
            if address := re.search(r"running on (\S+)", line):
                self.url = address[1]
                self.started.set()
        self.started.set()

    def stop(self) -> tuple[int, str, str]:
        """End it by SIGTERM: its status, stdout and stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> tuple[int, str, str]:
        """Wait until it has ended: its status, stdout and stderr."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        status = self.process.wait(timeout=30)
        self._reader.join()
        return status, out, "".join(self.words)


@contextmanager
def served(command: Sequence[str], environ: Mapping[str, str], cwd: Path | None = None) -> Generator[Served]:
    """Run a server until the end of the block; it is killed if it has not been stopped."""
    pipe = subprocess.PIPE
    ours = list(command[: len(BUD_ASGI)]) == BUD_ASGI
    with (
        forked(command[len(BUD_ASGI) :], environ, cwd)
        if ours
        else subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=dict(environ), cwd=cwd)
    ) as process:
        here = Served(process)
        try:
            assert here.started.wait(30), here.words
            assert here.url, here.words
            yield here
        finally:
            process.kill()
            here._reader.join()
