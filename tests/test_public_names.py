"""The package exports exactly its public names, and all of them are documented."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROOMS = [
    "bud_asgi",
    "bud_asgi.auth",
    "bud_asgi.http",
    "bud_asgi.limits",
    "bud_asgi.providers",
    "bud_asgi.routing",
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
