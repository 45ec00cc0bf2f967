"""Build the documentation as a site: `make docs`.

The site has the pages of this folder, the README and its neighbours, the examples, and a reference made of the
docstrings. Each version has a folder of its own in `site/`. The build fails if a link leads nowhere. It needs no
network.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OVERVIEW = {"README.md": "overview.md"} | {
    name: name.lower() for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}
"""Pages of the root folder, and their names in the site."""

ROOMS = ("bud_asgi", *(f"bud_asgi.{room}" for room in ("auth", "limits", "routing", "providers", "http", "testing")))
"""The modules of the reference."""

_LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}
_LONGEST_LISTING = 20_000
_LINK = re.compile(r"(\]\()([^)\s#]+)")


def main() -> int:
    """Build the site of this version. Returns the exit status."""
    import bud_asgi  # noqa: PLC0415 - the reference needs it, the tests of this module do not

    version = ".".join(bud_asgi.__version__.split(".")[:2])
    site = ROOT / "site"
    with TemporaryDirectory() as folder:
        stage = Path(folder)
        write_pages(stage / "docs")
        config = stage / "zensical.toml"
        config.write_text(_config(version))
        built = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=stage, check=False)
        if built.returncode:
            return built.returncode
        shutil.rmtree(site / version, ignore_errors=True)
        shutil.copytree(stage / "site", site / version)
    write_versions(site, version)
    broken = list(broken_links(site / version))
    for page, link in broken:
        print(f"{page}: broken link: {link}", file=sys.stderr)
    print(f"open {site / 'index.html'}")
    return 1 if broken else 0


def write_pages(stage: Path) -> None:
    """Write all pages to an empty folder, with links that hold there."""
    names = {ROOT / old: stage / new for old, new in OVERVIEW.items()}
    pages = (page for page in DOCS.rglob("*") if page.suffix in {".md", ".svg", ".png", ".css"})
    names |= {page: stage / page.relative_to(DOCS) for page in pages if "node_modules" not in page.parts}
    examples = {example: stage / f"examples/{example.stem}.md" for example in _examples()}
    inner = {file: page for example, page in examples.items() for file in _files_of(example)}
    names |= inner | examples
    for source, page in names.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        if source in examples:
            page.write_text(_example(source))
        elif source.suffix == ".md":
            page.write_text(relinked(source.read_text(), source, page, names))
        elif source not in inner:
            shutil.copy(source, page)
    for room in ROOMS:
        page = stage / f"reference/{room}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(_reference(room))


def relinked(text: str, source: Path, page: Path, names: Mapping[Path, Path]) -> str:
    """The text of a page with its links to other pages as they are in the site."""

    def replace(match: re.Match[str]) -> str:
        start, link = match.groups()
        target = names.get((source.parent / link).resolve())
        if target is None or urlsplit(link).scheme:
            return match.group()
        return start + os.path.relpath(target, page.parent)

    return _LINK.sub(replace, text)


def broken_links(site: Path) -> Iterator[tuple[str, str]]:
    """Find the links of a site that lead to no file, or to no place in one."""
    pages = {path: _Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("/"):  # of others, or of 404.html
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            is_there = target.is_file() or (target / "index.html").is_file()
            anchor = unquote(parts.fragment)
            if not is_there or (anchor and target in pages and anchor not in pages[target].anchors):
                yield str(path.relative_to(site)), link


def write_versions(site: Path, latest: str) -> None:
    """Write what the menu of versions reads, and a first page that leads to the latest."""
    versions = sorted((path.name for path in site.iterdir() if path.is_dir()), key=_numbers, reverse=True)
    entries = [{"version": name, "title": name, "aliases": ["latest"] * (name == latest)} for name in versions]
    (site / "versions.json").write_text(json.dumps(entries))
    (site / "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={latest}/index.html">\n')


class _Page(HTMLParser):
    """The links of a page, and the places that links may lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)


def _examples() -> list[Path]:
    """The examples: files, and folders with several."""
    return sorted(path for path in (ROOT / "examples").iterdir() if path.suffix == ".py" or _files_of(path))


def _files_of(example: Path) -> list[Path]:
    """The files of an example that is a folder."""
    return sorted(path for path in example.glob("*.*") if path.suffix in _LANGUAGES)


def _example(path: Path) -> str:
    """A page with the code of an example."""
    if path.is_dir():
        return f"# {path.name}\n\n" + "".join(_listing(file) for file in _files_of(path))
    code = path.read_text()
    summary = (ast.get_docstring(ast.parse(code)) or "").partition("\n")[0]
    return f"# {path.name}\n\n{summary}\n\n```python\n{code}```\n"


def _listing(file: Path) -> str:
    text, language = file.read_text(), _LANGUAGES[file.suffix]
    if len(text) > _LONGEST_LISTING:
        return f"## {file.name}\n\n{len(text) >> 10} KB, in `{file.relative_to(ROOT)}` of a checkout.\n\n"
    return f"## {file.name}\n\n```{language}\n{text}```\n\n"


def _reference(room: str) -> str:
    """A page with the public names of a module, which mkdocstrings fills in."""
    module = importlib.import_module(room)
    summary = (module.__doc__ or "").partition("\n")[0]
    names = sorted(name for name in module.__all__ if _is_ours(module, name))
    return f"# {room}\n\n{summary}\n\n" + "".join(f"::: {room}.{name}\n\n" for name in names)


def _is_ours(module: ModuleType, name: str) -> bool:
    return str(getattr(getattr(module, name), "__module__", "bud_asgi")).startswith("bud_asgi")


def _config(version: str) -> str:
    """The configuration of the generator, with what depends on the checkout."""
    config = (ROOT / "zensical.toml").read_text()
    examples = "".join(f'    {{ "{path.name}" = "examples/{path.stem}.md" }},\n' for path in _examples())
    rooms = "".join(f'    {{ "{room}" = "reference/{room}.md" }},\n' for room in ROOMS)
    config = config.replace("    # examples\n", examples).replace("    # reference\n", rooms)
    handler = "[project.plugins.mkdocstrings.handlers.python]\n"
    return config.replace("[project.plugins", f"{handler}paths = [{json.dumps(str(ROOT))}]\n\n[project.plugins", 1)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


if __name__ == "__main__":
    sys.exit(main())
