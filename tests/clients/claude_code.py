"""Claude Code, the command line client, without a terminal and without the rest of the world."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from clients_gateways import KEY
from clients_node import PACKAGES, run_node

from bud_asgi.testing import Received, Reply, text
from bud_asgi.testing.anthropic.default_replies import default_reply

PROGRAM = PACKAGES / "@anthropic-ai/claude-code/cli-wrapper.cjs"
"""Finds the binary for this machine's kind, which is a package of its own."""

TOOLS = "Write,Read,Bash,Agent"

OPTIONS = (
    "--output-format=stream-json",
    "--verbose",
    "--strict-mcp-config",  # else it asks for a public list of MCP servers
    f"--allowedTools={TOOLS}",
)


class Session(msgspec.Struct, frozen=True):
    """A session that has ended: its status, what it told line by line, and what it said beside that."""

    status: int
    events: Sequence[Mapping[str, Any]]
    words: str

    @property
    def result(self) -> Mapping[str, Any]:
        """Its last line: how it ended."""
        assert self.events, self.words
        assert self.events[-1]["type"] == "result", self.events[-1]
        return self.events[-1]

    def assert_success(self, said: str) -> None:
        """It ended well, with these words."""
        assert (self.status, self.result["subtype"], self.result["is_error"]) == (0, "success", False), self.result
        assert self.result["result"] == said


class ClaudeCode:
    """The client in a folder of its own, which has its home and the place where it works."""

    def __init__(self, folder: Path, proxy: str) -> None:
        self.home, self.work = folder / "home", folder / "work"
        temporary = folder / "tmp"
        for place in (self.home, self.work, temporary):
            place.mkdir()
        self._environ = {
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

    def __call__(self, base_url: str, *options: str, prompt: str = "Go on.", **environ: str) -> Session:
        """Run a session with one prompt to its end. `environ` changes its environment; an empty value is as none."""
        ended = run_node(
            str(PROGRAM),
            *("-p", prompt, *OPTIONS, *options),
            environ={**self._environ, "ANTHROPIC_BASE_URL": base_url, **environ},
            cwd=self.work,
        )
        return Session(ended.status, [json.loads(line) for line in ended.out.splitlines()], ended.words)


class Script:
    """What the model does in a session: a step for each tool result that it has seen, the last one ends it.

    Without tools in the request (a title, a hook) it says `{"ok": true}`. For `always` of a stand-in.
    """

    def __init__(self, *steps: Reply) -> None:
        self._steps = steps

    def __call__(self, received: Received) -> Reply:
        if received.path != b"/v1/messages":
            return default_reply(received)
        asked = received.json()
        if not asked.get("tools"):
            return text('{"ok": true}')
        return self._steps[min(len(tool_results(asked)), len(self._steps) - 1)]


def tool_results(asked: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tool results in a request's messages."""
    contents = [message["content"] for message in asked["messages"]]
    blocks = [block for content in contents if isinstance(content, list) for block in cast("list[Any]", content)]
    return [block for block in blocks if block["type"] == "tool_result"]
