"""The package exports exactly its public names, and all of them are documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROOT = DOCS.parent
ROOMS = [
    "bud_asgi",
    "bud_asgi.auth",
    "bud_asgi.http",
    "bud_asgi.limits",
    "bud_asgi.providers",
    "bud_asgi.routing",
    "bud_asgi.telemetry",
    "bud_asgi.testing",
]


@pytest.mark.parametrize("room", ROOMS)
def test_all_is_whole_and_documented(room: str) -> None:
    module = importlib.import_module(room)
    names: list[str] = module.__all__
    assert len(set(names)) == len(names)
    shown = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert shown <= set(names) | {"annotations"}
    for name in names:
        value = getattr(module, name)
        assert not isinstance(value, ModuleType)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("bud_asgi"):
            assert inspect.getdoc(value), f"{room}.{name}"


def test_the_manual_names_what_the_package_shows() -> None:
    import bud_asgi

    manual = "".join(page.read_text() for page in (DOCS / "README.md", *DOCS.rglob("*.md"), DOCS.parent / "README.md"))

    for name in set(bud_asgi.__all__) - {"__version__"}:
        assert name in manual, name


def _programs() -> Iterator[tuple[str, str]]:
    """The Python code of the manual and the examples: where it stands, and the code."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for snippet in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield str(page.relative_to(ROOT)), snippet
    for example in sorted((ROOT / "examples").rglob("*.py")):
        yield str(example.relative_to(ROOT)), example.read_text(encoding="utf-8")


def test_the_manual_and_the_examples_import_public_names_only() -> None:
    seen: set[str] = set()
    for place, program in _programs():
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bud_asgi":
                public = importlib.import_module(node.module).__all__
                assert {one.name for one in node.names} <= {*public}, f"{place}: {ast.unparse(node)}"
                seen.add(node.module)
    assert "bud_asgi" in seen


def test_anthropic_is_always_the_provider_in_the_manual_and_the_examples() -> None:
    for place, program in _programs():
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and node.module == "anthropic":
                assert "Anthropic" not in {one.name for one in node.names}, f"{place}: import anthropic"
