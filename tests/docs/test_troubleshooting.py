"""docs/troubleshooting.md: the code has the words that it explains."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [[cell.strip() for cell in line.split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]
OWN = {"model:"}
"""What is only the beginning of a message."""


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a module that are no docstrings, formatted ones as they stand between their values."""
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


@pytest.fixture(scope="module")
def source() -> str:
    modules = (ROOT / "bud_asgi").rglob("*.py")
    return "\n".join(
        text for module in modules if "testing" not in module.parts for text in texts(ast.parse(module.read_text()))
    )


def words() -> list[str]:
    columns = [row[1] if row[0].strip("| ").isdigit() else row[0] for row in ROWS]
    return [quoted for column in columns for quoted in re.findall(r"`([^`]+)`", column) if quoted not in OWN]


@pytest.mark.parametrize("quoted", words())
def test_the_code_has_the_words(quoted: str, source: str) -> None:
    assert quoted in source


def test_there_are_enough_of_them() -> None:
    assert len(words()) > 25
