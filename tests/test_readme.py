"""The README is true: each snippet serves the official SDK, each file and target that it names is there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import anthropic
import pytest

import bud_asgi
from bud_asgi.testing import StandIn
from bud_asgi.testing.server.serving import serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMPOSE = (ROOT / "docs" / "compose.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README + COMPOSE, re.DOTALL)
HASH = re.compile(r"sha256:[0-9a-f]{64}")


def run(snippet: str, key: str, upstream_url: str) -> dict[str, Any]:
    """Run a snippet as it stands, but with the hash of a key that we have, and the upstream that we have."""
    snippet = HASH.sub(bud_asgi.hash_api_key(key), snippet, count=1)
    snippet = snippet.replace(
        'from_env("ANTHROPIC_API_KEY")', f'from_env("ANTHROPIC_API_KEY"), base_url="{upstream_url}"'
    )
    names: dict[str, Any] = {}
    exec(snippet, names)
    return names


class Ledger:
    """The ledger that the snippet of the callback writes into."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    async def add(self, **line: Any) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_each_python_snippet_serves_the_official_sdk(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-upstream")
    key, billed = bud_asgi.new_api_key(), Ledger()
    with StandIn(api_key="sk-ant-upstream").in_thread() as upstream:
        names = run(PYTHON[index], key, upstream.base_url)
        if "client" in names:  # the snippet of the client
            assert str(names["client"].base_url) == "http://127.0.0.1:8000/llm/"
            names["client"].close()
            return
        if "bill" in names:  # the snippet of the callback
            names["ledger"] = billed
            names["messages"] = bud_asgi.MessagesApp(
                auth=bud_asgi.ApiKeys({"ci": bud_asgi.hash_api_key(key)}),
                providers=[bud_asgi.Anthropic(api_key="sk-ant-upstream", base_url=upstream.base_url)],
                on_settled=names["bill"],
            )
        app, prefix = (names["app"], "/llm") if "app" in names else (names["messages"], "")
        with serving(app) as url, anthropic.Anthropic(base_url=url + prefix, api_key=key, max_retries=0) as client:
            message = client.messages.create(
                model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
            )
            assert message.content
        if "bill" in names:
            usage = message.usage
            assert [
                (line["who"], line["input_tokens"], line["output_tokens"], line["outcome"]) for line in billed.lines
            ] == [("ci", usage.input_tokens, usage.output_tokens, "answered")]


def test_every_file_that_it_names_is_there() -> None:
    for name in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / name).exists(), name


def test_the_make_targets_that_it_names_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
