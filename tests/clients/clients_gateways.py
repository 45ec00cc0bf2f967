"""The two ways to run a gateway: mounted in a host app, and standalone with a configuration file."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.calls import KEY, UPSTREAM_KEY
from support.gateway import gateway

from bud_asgi import Anthropic, hash_api_key
from bud_asgi.testing import ThreadedStandIn


@contextmanager
def mounted(upstream: ThreadedStandIn, **options: Any) -> Generator[str]:
    """Run a Starlette host with the app at `/llm`; `options` are the app's. Yields the base URL for clients."""
    settings: dict[str, Any] = {"providers": [Anthropic(api_key=UPSTREAM_KEY, base_url=upstream.base_url)], **options}
    with gateway("", **settings) as here:
        yield here.base_url


FILE = """
[providers.anthropic]
kind = "anthropic"
api_key = "file:upstream-key"
base_url = "{upstream}"

[[keys]]
name = "me"
hash = "{hash}"
"""


@contextmanager
def standalone(upstream: ThreadedStandIn, folder: Path, more: str = "") -> Generator[str]:
    """Run `bud-asgi serve` in its own process, with a file in `folder`. Yields the base URL for clients.

    `more` is appended to the file.
    """
    (folder / "upstream-key").write_text(UPSTREAM_KEY)
    file = folder / "gateway.toml"
    file.write_text(FILE.format(upstream=upstream.base_url, hash=hash_api_key(KEY)) + more)
    command = [sys.executable, "-W", "error", "-m", "bud_asgi.cli", "serve", str(file), "--port", "0"]
    log = folder / "gateway.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield _address(log, process)
        finally:
            process.terminate()
            status = process.wait(timeout=20)
    assert status == 0, log.read_text()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until the server has logged its address."""
    deadline = time.monotonic() + 30
    while (found := re.search(r"running on (http://\S+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found[1]
