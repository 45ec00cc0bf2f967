"""The two quickstarts of the README, to the letter: in a copy of the checkout, a new environment and two minutes.

Only what the README cannot contain differs: the upstream is a stand-in, ports are free ones, and packages are installed
by uv, which has them already.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.waiting import answers, wait_until

from bud_asgi.testing import StandIn, ThreadedStandIn

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
UPSTREAM_KEY = "sk-ant-the-key-of-the-quickstart"
TWO_MINUTES = 120.0


def part(title: str) -> str:
    """A part of the README."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    return text


def commands(text: str) -> list[str]:
    """The shell commands of a part, in order, without comments."""
    text = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"```sh\n(.*?)```|^    (\S[^\n]*\n)", text, re.DOTALL | re.MULTILINE)
    lines = "".join(fenced or indented for fenced, indented in found).replace("\\\n", " ")
    return [line.split("    #")[0].strip() for line in re.split(r"\n(?! )", lines) if line.strip()]


class Shell:
    """A folder with a copy of the checkout, its environment, and the variables that have been exported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("bud_asgi", "_bud_asgi_command.py", "_bud_asgi_pytest.py", "README.md", "LICENSE", "pyproject.toml")
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "ANTHROPIC" not in name}
        self.environment = {
            **kept,
            "VIRTUAL_ENV": str(folder / ".venv"),
            "PATH": f"{folder / '.venv/bin'}:{os.environ['PATH']}",
        }
        self.uv = Path(sys.executable).parent / "uv"

    def run(self, line: str) -> str:
        """Run a command of the README; return what it writes."""
        line = line.replace("python -m venv .venv", f"'{self.uv}' venv -q --python '{sys.executable}' .venv")
        line = re.sub(r"^pip install", f"'{self.uv}' pip install -q", line)
        shown = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert shown.returncode == 0, (line, shown.stdout, shown.stderr)
        return shown.stdout + shown.stderr

    @contextmanager
    def serving(self, line: str, path: str) -> Generator[str]:
        """Run a command that serves, on a free port; yield its address."""
        port = free_port()
        log = self.folder / "server.log"
        with log.open("wb") as output:
            command = ["sh", "-c", f"exec {line} --port {port}"]
            server = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=output, stderr=output)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: server.poll() is not None or answers(url + path), "the server listens")
            assert server.poll() is None, log.read_text()
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) in {0, -signal.SIGTERM}, log.read_text()


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("a clone"))


def call(shell: Shell, url: str, key: str) -> None:
    """Run the curl line of the README."""
    (line,) = (line for line in commands(part("Quickstart: in a FastAPI app")) if line.startswith("curl"))
    shown = shell.run(
        line.replace("http://127.0.0.1:8000/llm", url).replace("YOUR_API_KEY", key).replace("curl", "curl -s")
    )
    assert json.loads(shown)["type"] == "message"


def test_in_a_fastapi_app(shell: Shell, upstream: ThreadedStandIn) -> None:
    text, started = part("Quickstart: in a FastAPI app"), time.monotonic()
    venv, _activate, install, make_key, export, serve, _curl = commands(text)
    shell.run(venv)
    shell.run(install)
    key, key_hash = shell.run(make_key).split()
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    own = re.sub(r"sha256:[0-9a-f]{64}", key_hash, program)
    here = f'from_env("ANTHROPIC_API_KEY"), base_url="{upstream.base_url}"'
    (shell.folder / "main.py").write_text(own.replace('from_env("ANTHROPIC_API_KEY")', here))
    assert export == "export ANTHROPIC_API_KEY=sk-ant-..."
    shell.environment["ANTHROPIC_API_KEY"] = UPSTREAM_KEY
    with shell.serving(serve, "/llm/healthz") as url:
        call(shell, f"{url}/llm", key)
    assert time.monotonic() - started < TWO_MINUTES


def test_on_its_own(shell: Shell, upstream: ThreadedStandIn) -> None:
    text, started = part("Quickstart: on its own"), time.monotonic()
    install, export, init, check, serve = commands(text)
    shell.run(install)
    assert export == "export ANTHROPIC_API_KEY=sk-ant-..."
    shell.environment |= {"ANTHROPIC_API_KEY": UPSTREAM_KEY, "ANTHROPIC_BASE_URL": upstream.base_url}
    (key,) = re.findall(r"sk-bud-\S+", shell.run(init))
    assert "gateway.toml is valid" in shell.run(check)
    with shell.serving(serve, "/healthz") as url:
        call(shell, url, key)
    (ask,) = re.findall(r"`(bud-asgi ask [^`]*)`", text)
    assert "stand-in" in shell.run(ask)
    assert time.monotonic() - started < TWO_MINUTES
