"""docs/claude-code.md is followed to the letter."""

from __future__ import annotations

import re
from pathlib import Path

from claude_code import ClaudeCode, Script
from clients_gateways import KEY, standalone
from clients_node import FOLDER
from test_claude_code_setup import MODELS

from bud_asgi.testing import ThreadedStandIn, text

PAGE = (FOLDER.parents[1] / "docs/claude-code.md").read_text()
(SHELL,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
(ROUTES,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_it_is_set_up_as_the_page_says(claude: ClaudeCode, upstream: ThreadedStandIn, tmp_path: Path) -> None:
    upstream.always(Script(text("All done.")))
    exported = dict(re.findall(r"export (\w+)=(\S+)", SHELL))
    assert exported.pop("ANTHROPIC_BASE_URL").endswith("/llm")
    assert exported == {"ANTHROPIC_AUTH_TOKEN": "YOUR_API_KEY"}
    with standalone(upstream, tmp_path, ROUTES) as base_url:
        for model in ("claude-team", "sonnet"):
            claude(base_url, f"--model={model}", ANTHROPIC_AUTH_TOKEN=KEY).assert_success("All done.")
    assert [one.json()["model"] for one in upstream.requests] == ["claude-opus-5-5", "claude-sonnet-5-5"]


def test_the_release_is_the_one_that_is_run() -> None:
    (release,) = re.findall(r"Claude Code (\d+\.\d+\.\d+)", PAGE)
    assert f'"@anthropic-ai/claude-code": "{release}"' in (FOLDER / "package.json").read_text()


def test_its_table_of_models_is_what_is_asked_for() -> None:
    rows = re.findall(r"^\| (.*) \| `(claude-[\w-]+)` \|$", PAGE, re.MULTILINE)
    told = {chosen.strip("`"): asked for names, asked in rows for chosen in names.split(", ")}
    assert told == {chosen or "nothing": asked for chosen, asked in MODELS.items() if asked != chosen}
