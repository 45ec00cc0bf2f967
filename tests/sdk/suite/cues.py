"""How a case tells the stand-in what to answer: by a cue in its messages, which every backend carries up unchanged."""

from __future__ import annotations

import json
import os
import urllib.request
import uuid
from typing import Any

from backends import BACKEND

ELSEWHERE = {"model", "stream", "anthropic_version", "anthropic_beta"}
"""Fields that some backends take in the path or a header, or want besides."""


def reply(name: str, *args: Any, **more: Any) -> dict[str, Any]:
    """A reply in the vocabulary of `bud_asgi.testing`; arguments may be replies or blocks themselves."""
    return {"call": name, "args": list(args), "more": more}


class Cue:
    """Replies for the requests of one case, in order; then, and without any, the stand-in's own."""

    def __init__(self, *replies: dict[str, Any]) -> None:
        self.id = uuid.uuid4().hex
        self.text = json.dumps({"cue": self.id, "replies": replies})
        self.messages: list[Any] = [{"role": "user", "content": self.text}]
        self.headers = {"x-suite-case": self.id}
        """Sent along, they make `seen()["client"]` know the requests."""

    def ask(self, **more: Any) -> dict[str, Any]:
        """Arguments of a call; `messages` go on after the cue."""
        messages = [*self.messages, *more.pop("messages", [])]
        return {"model": BACKEND.model, "max_tokens": 2000, "messages": messages, **more}

    def ask_for_a_count(self, **more: Any) -> dict[str, Any]:
        """The same for `count_tokens`."""
        given = self.ask(**more)
        del given["max_tokens"]
        return given

    def seen(self) -> dict[str, Any]:
        """What came of it: `client`: the heads at the gateway; `upstream`: the requests at the stand-in."""
        with urllib.request.urlopen(f"{os.environ['SUITE_CONTROL']}/seen/{self.id}", timeout=30) as answer:
            return json.load(answer)

    def sent(self, number: int = 0) -> dict[str, Any]:
        """The body of a request at the stand-in, without what a backend says in other places."""
        body: dict[str, Any] = self.seen()["upstream"][number]["body"]
        return {name: value for name, value in body.items() if name not in ELSEWHERE}

    def asked(self) -> int:
        """How many requests the stand-in got."""
        return len(self.seen()["upstream"])


def said(message: Any) -> list[tuple[str, str]]:
    """Type and text of each block of an answer; the classes differ between a parsed stream and a whole message."""
    return [(block.type, getattr(block, block.type, "")) for block in message.content]
