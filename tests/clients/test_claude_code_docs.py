"""docs/claude-code.md: its settings, routes and tables are run with Claude Code."""

from __future__ import annotations

import re
from pathlib import Path

from claude_code import ClaudeCode, Script
from clients_gateways import standalone
from clients_node import FOLDER
from support.calls import KEY
from test_claude_code_setup import MODELS

from bud_asgi.testing import ThreadedStandIn, text

PAGE = (FOLDER.parents[1] / "docs/claude-code.md").read_text()
(SHELL,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
(ROUTES,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_settings_and_routes_of_the_page_work(
    claude: ClaudeCode, upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    upstream.always(Script(text("All done.")))
    exported = dict(re.findall(r"export (\w+)=(\S+)", SHELL))
    assert exported.pop("ANTHROPIC_BASE_URL").endswith("/llm")
    assert exported == {"ANTHROPIC_AUTH_TOKEN": "YOUR_API_KEY"}
    with standalone(upstream, tmp_path, ROUTES) as base_url:
        for model in ("claude-team", "sonnet"):
            claude(base_url, f"--model={model}", ANTHROPIC_AUTH_TOKEN=KEY).assert_success("All done.")
    assert [request.json()["model"] for request in upstream.requests] == ["claude-opus-5-5", "claude-sonnet-5-5"]


def test_the_version_on_the_page_is_the_tested_one() -> None:
    (version,) = re.findall(r"Claude Code (\d+\.\d+\.\d+)", PAGE)
    assert f'"@anthropic-ai/claude-code": "{version}"' in (FOLDER / "package.json").read_text()


def test_the_table_of_models_matches_the_tested_requests() -> None:
    rows = re.findall(r"^\| (.*) \| `(claude-[\w-]+)` \|$", PAGE, re.MULTILINE)
    documented = {chosen.strip("`"): requested for names, requested in rows for chosen in names.split(", ")}
    assert documented == {chosen or "nothing": requested for chosen, requested in MODELS.items() if requested != chosen}
