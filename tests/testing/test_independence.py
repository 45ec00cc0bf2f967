"""The stand-ins share no code with the gateway that they test."""

import ast
from collections.abc import Iterator
from pathlib import Path

import bud_asgi.testing

_PACKAGE = Path(bud_asgi.testing.__file__).parent


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_the_stand_ins_import_nothing_of_the_gateway() -> None:
    imported = {module for path in _PACKAGE.rglob("*.py") for module in _imported(path)}
    assert "bud_asgi.testing.server.stand_in" in imported
    ours = {name for name in imported if name.startswith((".", "bud_asgi"))}
    assert {name for name in ours if not name.startswith("bud_asgi.testing.")} == set()
