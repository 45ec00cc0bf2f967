"""`make docs` builds the site of the documentation, and finds links that lead nowhere."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DIAGRAMS = ROOT / "docs" / "diagrams"


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    names = (
        "bud_asgi",
        "docs",
        "examples",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "zensical.toml",
    )
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        else:
            shutil.copy(ROOT / name, checkout / name)
    built = subprocess.run(
        [sys.executable, "docs/site.py"], cwd=checkout, capture_output=True, text=True, timeout=120, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (site,) = (path for path in (checkout / "site").iterdir() if path.is_dir())
    menu = (site / "index.html").read_text() + 'href="./index.html"'
    for page in (checkout / "docs").rglob("*.md"):
        name = page.relative_to(checkout / "docs").with_suffix(".html")
        name = Path("index.html") if name.name == "README.html" else name
        assert (site / name).is_file(), name
        assert f'href="./{name.as_posix()}"' in menu, f"{name} is missing in the menu: add it to zensical.toml"
    everything = "".join(page.read_text() for page in site.rglob("*.html"))
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*', everything) == []
    assert "The Messages API (<code>POST /v1/messages</code>" in (site / "reference/bud_asgi.html").read_text()


def test_a_link_to_nowhere_is_found(builder: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text('<h1 id="here">x</h1><a href="other.html"></a><a href="#none"></a>')
    (tmp_path / "index.html").write_text(
        '<a href="there.html#here"></a><a href="there.html#gone"></a><a href="https://x.example/"></a>'
    )
    found = sorted(builder.broken_links(tmp_path))
    assert found == [("index.html", "there.html#gone"), ("there.html", "#none"), ("there.html", "other.html")]


def test_links_lead_to_the_pages_of_the_site(builder: ModuleType, tmp_path: Path) -> None:
    source, page = ROOT / "docs" / "hosts" / "x.md", tmp_path / "hosts" / "x.md"
    names = {ROOT / "README.md": tmp_path / "overview.md", ROOT / "docs" / "limits.md": tmp_path / "limits.md"}
    text = "[a](../../README.md) [b](../limits.md#workers) [c](https://x.example/README.md) [d](y.md)"
    linked = builder.relinked(text, source, page, names)
    assert linked == "[a](../overview.md) [b](../limits.md#workers) [c](https://x.example/README.md) [d](y.md)"


def test_versions_stand_beside_each_other(builder: ModuleType, tmp_path: Path) -> None:
    for version in ("0.2", "0.10", "0.1"):
        (tmp_path / version).mkdir()
    builder.write_versions(tmp_path, "0.10")
    versions = re.findall(r'"version": "([^"]*)"', (tmp_path / "versions.json").read_text())
    assert versions == ["0.10", "0.2", "0.1"]
    assert "0.10/index.html" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("source", sorted(DIAGRAMS.glob("*.mmd")), ids=lambda path: path.stem)
def test_each_diagram_is_drawn_from_its_source(source: Path) -> None:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert digest in source.with_suffix(".svg").read_text(), "run `make diagrams`"
