"""A headless Chromium, driven by its own protocol over one websocket."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from base64 import b64decode
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients_node import PACKAGES
from support.waiting import wait_until
from websockets.sync.client import ClientConnection, connect

FOLDER = PACKAGES / ".browser"
OPTIONS = (
    "--headless=shell",
    "--no-sandbox",  # the tests may run as root, and show the browser no page but their own
    "--no-zygote",
    "--in-process-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Browser:
    """One tab. Commands and events are those of the Chrome DevTools Protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._target: str | None = None
        self.events: list[dict[str, Any]] = []

    def open_tab(self) -> None:
        """Open a tab in place of the last one, and send further commands to it."""
        self._session, former = None, self._target
        self._target = self.call("Target.createTarget", url="about:blank")["targetId"]
        if former is not None:
            self.call("Target.closeTarget", targetId=former)
        self._session = self.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        return self.finish(self.start(method, **params))

    def start(self, method: str, **params: Any) -> int:
        """Send a command, and return its number."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        return number

    def finish(self, number: int) -> dict[str, Any]:
        """The result of a command. Events that arrive meanwhile are kept."""
        while True:
            answer = json.loads(self._connection.recv(timeout=20))
            if answer.get("id") != number:
                self.events.append(answer)
            elif "error" in answer:
                raise AssertionError(answer["error"])
            else:
                return answer["result"]

    def wait(self, event: str, timeout: float = 5.0) -> dict[str, Any]:
        """The next event of a kind, which is taken from those that are kept."""
        deadline = time.monotonic() + timeout
        while True:
            for kept in self.events:
                if kept.get("method") == event:
                    self.events.remove(kept)
                    return kept["params"]
            self.events.append(json.loads(self._connection.recv(timeout=deadline - time.monotonic())))

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)
        wait_until(lambda: self.value("document.readyState") == "complete", f"{url} is loaded", 10)

    def value(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Set the size of the screen."""
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def prefer(self, scheme: str) -> None:
        """Set the colour scheme that the user prefers: `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self) -> bytes:
        """A picture of what is on the screen, as PNG."""
        return b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def problems(self) -> list[dict[str, Any]]:
        """The errors that the page has caused so far, violations of its policy among them."""
        kinds = {"Runtime.exceptionThrown", "Log.entryAdded"}
        return [event["params"] for event in self.events if event.get("method") in kinds]


@contextmanager
def browser(profile: Path) -> Generator[Browser]:
    """Start Chromium with a new profile."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "al2023/lib")}
    command = [str(FOLDER / "chromium"), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = profile / "DevToolsActivePort"
    try:
        wait_until(lambda: port.exists() and port.read_text().count("\n") == 1, "the browser listens", 15)
        number, path = port.read_text().splitlines()
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=None) as connection:
            tab = Browser(connection)
            tab.open_tab()
            yield tab
    finally:
        process.kill()
        process.wait(10)
