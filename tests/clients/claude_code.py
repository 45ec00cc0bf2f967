"""Claude Code, the command line client, without a terminal and without the internet."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from clients_node import PACKAGES, run_node
from support.calls import KEY

from bud_asgi.testing import Received, Reply, text
from bud_asgi.testing.anthropic.default_replies import default_reply

PROGRAM = PACKAGES / "@anthropic-ai/claude-code/cli-wrapper.cjs"
"""Starts the binary for this platform, which is a package of its own."""

TOOLS = "Write,Read,Bash,Agent"

OPTIONS = (
    "--output-format=stream-json",
    "--verbose",
    "--strict-mcp-config",  # otherwise it fetches a public list of MCP servers
    f"--allowedTools={TOOLS}",
)


class Session(msgspec.Struct, frozen=True):
    """A finished session: its exit status, the events that it printed line by line, and its stderr."""

    status: int
    events: Sequence[Mapping[str, Any]]
    stderr: str

    @property
    def result(self) -> Mapping[str, Any]:
        """The last event: the result of the session."""
        assert self.events, self.stderr
        assert self.events[-1]["type"] == "result", self.events[-1]
        return self.events[-1]

    def assert_success(self, text: str) -> None:
        """Check that it succeeded, with this text as the result."""
        assert (self.status, self.result["subtype"], self.result["is_error"]) == (0, "success", False), self.result
        assert self.result["result"] == text


class ClaudeCode:
    """The client in its own folder, with a home directory and a working directory."""

    def __init__(self, folder: Path, proxy: str) -> None:
        self.home, self.work = folder / "home", folder / "work"
        temporary = folder / "tmp"
        for directory in (self.home, self.work, temporary):
            directory.mkdir()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_TELEMETRY": "1",
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "NO_PROXY": "127.0.0.1",
        }

    def __call__(self, base_url: str, *options: str, prompt: str = "Go on.", **environment: str) -> Session:
        """Run a session with one prompt to its end. `environment` adds variables; an empty one counts as unset."""
        finished = run_node(
            str(PROGRAM),
            *("-p", prompt, *OPTIONS, *options),
            environment={**self._environment, "ANTHROPIC_BASE_URL": base_url, **environment},
            cwd=self.work,
        )
        events = [json.loads(line) for line in finished.stdout.splitlines()]
        return Session(finished.status, events, finished.stderr)


class Script:
    """The model's replies in a session, for `always` of a stand-in: one for each number of tool results so far.

    The last one ends the session. Requests without tools (a title, a hook) are answered with `{"ok": true}`.
    """

    def __init__(self, *steps: Reply) -> None:
        self._steps = steps

    def __call__(self, received: Received) -> Reply:
        if received.path != b"/v1/messages":
            return default_reply(received)
        request = received.json()
        if not request.get("tools"):
            return text('{"ok": true}')
        return self._steps[min(len(tool_results(request)), len(self._steps) - 1)]


def tool_results(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tool results in the messages of a request."""
    contents = [message["content"] for message in request["messages"]]
    blocks = [block for content in contents if isinstance(content, list) for block in cast("list[Any]", content)]
    return [block for block in blocks if block["type"] == "tool_result"]
