"""Reloading while `serve` runs: on SIGHUP, and with `--watch` when a file has changed."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from cli_process import BUD_ASGI, KEY, UPSTREAM_KEY, Served, environment, gateway_file, served
from support.calls import MODEL
from support.ports import free_port
from support.waiting import until, wait_until

from bud_asgi import from_file, hash_api_key
from bud_asgi.cli.serve.hangup import Hangup
from bud_asgi.cli.serve.options import ServeOptions, check_options
from bud_asgi.cli.serve.reloading import Reloader
from bud_asgi.config import Settings, read_file
from bud_asgi.testing import StandIn, text

OTHER_KEY = "sk-bud-CANARY-of-another"
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
HELLO = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
FILE = """\
allow_anonymous = true
max_body = {size}
[providers.anthropic]
kind = "anthropic"
api_key = "file:secret"
"""


class NoSignal(Hangup):
    """No signal comes: only time passes."""

    def __init__(self) -> None:
        pass

    async def wait(self, timeout: float | None) -> bool:
        """Wait."""
        await asyncio.sleep(timeout or 0)
        return False


class Watched:
    """An app whose files are watched, and what is logged about that."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.folder = folder
        self._caplog = caplog

    def replace(self, name: str, content: str) -> None:
        """As editors and other programs do: by a new file of the same name."""
        new = self.folder / f".{name}.new"
        new.write_text(content)
        new.replace(self.folder / name)

    async def until_logged(self, *words: str) -> None:
        """Wait for a message with each of these words, and forget all messages."""
        await until(lambda: all(any(word in line for line in self.lines) for word in words))
        self.clear()

    @property
    def lines(self) -> list[str]:
        """The messages since the last `clear`."""
        return [record.getMessage() for record in self._caplog.records]

    def clear(self) -> None:
        """Forget all messages."""
        self._caplog.clear()


@asynccontextmanager
async def watching(
    folder: Path, file: Path, caplog: pytest.LogCaptureFixture, read: Callable[[Path], Settings] = read_file
) -> AsyncGenerator[Watched]:
    messages = from_file(file)
    reloader = Reloader(messages, partial(read, file), watch=True, interval=0.005)
    task = asyncio.create_task(reloader.run(NoSignal()))
    try:
        yield Watched(folder, caplog)
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
def folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level(logging.INFO, "bud_asgi")
    tmp_path.joinpath("secret").write_text("sk-ant-CANARY-the-first")
    tmp_path.joinpath("gateway.toml").write_text(FILE.format(size=1000))
    for file in tmp_path.iterdir():
        file.chmod(0o600)
    return tmp_path


async def test_a_file_that_is_replaced_or_written_is_read_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(folder, folder / "gateway.toml", caplog) as here:
        here.replace("gateway.toml", FILE.format(size=2000))
        await here.until_logged("revision 2", "max_body changed to 2000")
        folder.joinpath("gateway.toml").write_text(FILE.format(size=30000))
        await here.until_logged("revision 3", "max_body changed to 30000")
        here.replace("secret", "sk-ant-CANARY-the-second")
        await until(lambda: "providers.anthropic: api_key changed" in here.lines)
        assert "CANARY" not in "".join(here.lines)


async def test_a_problem_is_logged_once_and_ends_with_the_next_change(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "gateway.toml"
    async with watching(folder, file, caplog) as here:
        file.write_text(FILE.format(size=2000)[:40])
        await until(lambda: "invalid TOML" in "".join(here.lines))
        await asyncio.sleep(0.05)
        assert len(here.lines) == 2
        here.clear()
        file.unlink()
        await here.until_logged("cannot read the file")
        file.write_text(FILE.format(size=2000).replace("secret", "secret-2"))
        await here.until_logged("gateway.toml:5: providers.anthropic.api_key: cannot read")
        folder.joinpath("secret-2").write_text("sk-ant-CANARY-the-second")
        await here.until_logged("revision 2", "api_key changed", "max_body changed")


async def test_a_file_that_contradicts_the_options_of_the_command_is_read_again_when_it_changes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ServeOptions(
        config=None,
        host="127.0.0.1",
        port=46001,
        workers=1,
        per_worker_limits=False,
        log_level="info",
        forwarded_allow_ips=None,
        drain_timeout=1,
        keep_alive=1,
        limit_connections=None,
        limit_concurrency=None,
    )
    file = folder / "gateway.toml"

    def read(file: Path) -> Settings:
        settings = read_file(file)
        check_options(settings, options)
        return settings

    async with watching(folder, file, caplog, read) as here:
        here.replace("gateway.toml", f'{FILE.format(size=2000)}base_url = "http://127.0.0.1:46001"\n')
        await here.until_logged("is the address of this server itself")
        here.replace("gateway.toml", FILE.format(size=2000))
        await here.until_logged("revision 2", "max_body changed to 2000")


async def test_a_file_that_is_still_being_written_is_not_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(folder, folder / "gateway.toml", caplog) as here:
        for size in range(1001, 1030):
            here.replace("gateway.toml", FILE.format(size=size))
            await asyncio.sleep(0.002)
        await here.until_logged("max_body changed to 1029")


async def test_a_folder_that_kubernetes_swaps_is_read_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A ConfigMap is a link to a link: `gateway.toml` -> `..data/gateway.toml`, `..data` -> a folder for each state."""
    for number, size in enumerate((1000, 2000)):
        state = folder / f"..{number}"
        state.mkdir()
        state.joinpath("gateway.toml").write_text(
            FILE.format(size=size).replace("file:secret", f"file:{folder}/secret")
        )
    folder.joinpath("..data").symlink_to("..0")
    file = folder / "mounted.toml"
    file.symlink_to("..data/gateway.toml")
    async with watching(folder, file, caplog) as here:
        folder.joinpath("..new").symlink_to("..1")
        folder.joinpath("..new").replace(folder / "..data")
        await here.until_logged("revision 2", "max_body changed to 2000")


def ask(url: str, key: str = KEY, **more: object) -> int:
    headers = {**HEADERS, "x-api-key": key}
    return httpx.post(f"{url}/v1/messages", headers=headers, json={**HELLO, **more}, timeout=30).status_code


def another_key(name: str) -> str:
    """A table for the file."""
    return f'\n[[keys]]\nname = "{name}"\nhash = "{hash_api_key(OTHER_KEY)}"\n'


def said(server: Served, words: str) -> bool:
    return any(words in line for line in list(server.words))


def test_the_command_holds_the_signal_before_it_imports_the_package() -> None:
    code = """if True:
        import signal, sys, _bud_asgi_command
        class Imports:
            def find_spec(self, name, path, target=None):
                if name == "bud_asgi":
                    sys.exit(signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        sys.meta_path.insert(0, Imports())
        sys.argv = ["bud-asgi", "serve", "gateway.toml"]
        _bud_asgi_command.main()
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_storm_of_signals_under_load_fails_no_request(tmp_path: Path) -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream, StandIn(api_key=UPSTREAM_KEY).in_thread() as other:
        file = gateway_file(tmp_path, upstream.base_url)
        with served([*BUD_ASGI, "serve", str(file), "--port", "0"], environment()) as server:
            statuses: list[int] = []
            stop = threading.Event()

            def load() -> None:
                while not stop.is_set():
                    statuses.append(ask(server.url))

            clients = [threading.Thread(target=load, daemon=True) for _ in range(3)]
            upstream.enqueue(text("one two three four five six", delay=0.2))
            body = {**HELLO, "stream": True}
            with httpx.stream("POST", f"{server.url}/v1/messages", json=body, timeout=20, headers=HEADERS) as stream:
                pieces = stream.iter_text()
                begun = next(pieces)
                for client in clients:
                    client.start()
                for number in range(40):
                    target = (upstream, other)[number % 2].base_url
                    gateway_file(
                        tmp_path, target, f'\n[[keys]]\nname = "k{number}"\nhash = "{hash_api_key(OTHER_KEY)}"\n'
                    )
                    server.process.send_signal(signal.SIGHUP)
                    time.sleep(0.01)
                wait_until(lambda: said(server, 'key "k39" added'), "the last one is read")
                assert ask(server.url, OTHER_KEY) == 200
                assert "message_stop" in begun + "".join(pieces)
            stop.set()
            for client in clients:
                client.join()
            gateway_file(tmp_path, other.base_url, "\n[[limits]]\nrequests = 0\n")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: said(server, "limits[0].requests: expected"), "the problem is logged")
            assert ask(server.url, OTHER_KEY) == 200
            gateway_file(tmp_path, other.base_url)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: said(server, 'key "k39" removed'), "the key is removed")
            assert ask(server.url, OTHER_KEY) == 401
            other.enqueue(text("one two three four five six", delay=0.2))
            with httpx.stream("POST", f"{server.url}/v1/messages", json=body, timeout=20, headers=HEADERS) as stream:
                pieces = stream.iter_text()
                begun = next(pieces)
                server.process.send_signal(signal.SIGTERM)
                wait_until(lambda: said(server, "draining"), "it drains")
                server.process.send_signal(signal.SIGHUP)
                assert "message_stop" in begun + "".join(pieces)
            with suppress(ProcessLookupError):
                while server.process.poll() is None:  # also while Python exits
                    server.process.send_signal(signal.SIGHUP)
            status, _, words = server.ended()
    assert set(statuses) == {200}
    assert status == 0, words
    assert "CANARY" not in words


def test_the_supervisor_passes_the_signal_on_to_each_worker_and_replaces_only_what_has_died(tmp_path: Path) -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        file = gateway_file(tmp_path, upstream.base_url)
        port = str(free_port())
        command = [*BUD_ASGI, "serve", str(file), "--port", port, "--workers", "2"]
        with served(command, environment()) as server, ended(server):
            for _ in range(3):  # while they start
                server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: _count(server, "Application startup complete") == 2, "both have started")
            gateway_file(tmp_path, upstream.base_url, another_key("o"))
            os.kill(server.process.pid, signal.SIGHUP)
            added = partial(_count, server, 'key "o" added')
            wait_until(lambda: added() == 2, "both have reloaded")
            assert {ask(f"http://127.0.0.1:{port}", OTHER_KEY) for _ in range(6)} == {200}
            gateway_file(tmp_path, upstream.base_url, "\n[[limits]]\nrequests = 60\n")
            server.process.send_signal(signal.SIGHUP)
            refused = partial(_count, server, "each worker would count the limits on its own")
            wait_until(lambda: refused() == 2, "both refuse it")
            started = partial(_count, server, "Started server process")
            assert started() == 2
            (first, *_) = [line for line in server.words if "Started server process" in line]
            os.kill(int(re.findall(r"\[(\d+)\]", first)[0]), signal.SIGKILL)
            wait_until(lambda: said(server, "worker not started: --workers: each worker"), "what replaces it too")
            gateway_file(tmp_path, upstream.base_url)
            wait_until(lambda: started() == 3, "it starts with a file that is valid again")
            status, _, words = server.stop()
    assert (status, "Traceback" in words) == (0, False), words


@contextmanager
def ended(server: Served) -> Generator[None]:
    """End the workers too, whatever happens: they have the pipe that is read to its end."""
    try:
        yield
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)


def _count(server: Served, words: str) -> int:
    return sum(words in line for line in list(server.words))
