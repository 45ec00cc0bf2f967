"""The snippets of docs/engine.md run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_PAGE = Path(__file__).parents[2] / "docs" / "engine.md"
_SNIPPETS = re.findall(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("snippet", _SNIPPETS, ids=range(len(_SNIPPETS)))
def test_a_snippet_runs(snippet: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        check=False,
        timeout=30,
        capture_output=True,
        env={**os.environ, "ANTHROPIC_API_KEY": "sk-ant-test"},
    )
    assert (run.returncode, run.stderr) == (0, b"")


def test_every_kind_of_error_is_explained() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    for kind in ("connect", "tls", "timeout", "reset", "protocol"):
        assert f"| `{kind}` |" in page
