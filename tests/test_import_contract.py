"""The import contract: each import that it forbids is seen to fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS: list[list[str]] = [[name.strip() for name in layer.split("|")] for layer in SETTINGS["contracts"][0]["layers"]]
UPWARD = [(low, high) for above, below in pairwise(LAYERS) for low in below for high in above]
SIDEWAYS = [(one, other) for layer in LAYERS for one in layer for other in layer if one != other]


def test_contributing_shows_the_rooms_in_the_order_of_the_layers() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| room | subject |\n|---|---|\n")[2].partition("\n\n")[0]
    shown = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()]
    rooms = [room for layer in shown for room in layer]
    assert sorted(rooms) == sorted([*(room for layer in LAYERS for room in layer), "data"])
    place = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    assert [place.get(room, len(LAYERS)) for room in rooms] == sorted(place.get(room, len(LAYERS)) for room in rooms)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, with its contracts beside it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "bud_asgi", tmp_path / "bud_asgi", ignore=ignored))


def lint(package: Path, forbidden: list[tuple[str, str]] | None = None) -> str:
    """Add imports to the copy, and return what the contracts report."""
    for low, high in forbidden or ():
        room = package / low
        file = room / "__init__.py" if room.is_dir() else room.with_suffix(".py")
        file.write_text(f"{file.read_text()}\nimport bud_asgi.{high}  # added\n")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    environment = {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("forbidden", [UPWARD, SIDEWAYS], ids=["upward", "between siblings"])
def test_a_forbidden_import_is_reported(package: Path, forbidden: list[tuple[str, str]]) -> None:
    report = lint(package, forbidden)
    sentences = [f"bud_asgi.{low} is not allowed to import bud_asgi.{high}" for low, high in forbidden]
    assert [sentence for sentence in sentences if sentence not in report] == [], report


def test_a_room_without_a_layer_is_reported(package: Path) -> None:
    assert "0 broken" in lint(package)
    (package / "attic.py").write_text('"""A room that was added without a place."""\n')
    assert "attic" in lint(package)


def test_the_stand_ins_import_nothing_of_the_rest(package: Path) -> None:
    assert "bud_asgi.testing is not allowed to import bud_asgi.protocol" in lint(package, [("testing", "protocol")])
