"""docs/troubleshooting.md: the code has the words that it explains."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [[cell.strip() for cell in line.split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]
OWN = {"model:"}
"""What is only the beginning of a message."""


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module that are no docstrings, formatted ones as they stand between their values."""
    docstrings = set[ast.AST]()
    for node in ast.walk(tree):  # from the outside in
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if isinstance(node.body[0], ast.Expr):
                docstrings.add(node.body[0].value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


def source() -> str:
    modules = (ROOT / "bud_asgi").rglob("*.py")
    return "\n".join(
        text for module in modules if "testing" not in module.parts for text in texts(ast.parse(module.read_text()))
    )


def words() -> list[str]:
    columns = [row[1] if row[0].strip("| ").isdigit() else row[0] for row in ROWS]
    return [quoted for column in columns for quoted in re.findall(r"`([^`]+)`", column) if quoted not in OWN]


def test_the_code_has_the_words() -> None:
    code = source()
    assert [quoted for quoted in words() if quoted not in code] == []
    assert len(words()) > 25
