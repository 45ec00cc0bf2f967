"""Write the tables of keys in configuration.md from the docstrings of bud_asgi.config's tables: `make reference`.

A table stands below a comment with the name of a class, and with the keys to list if those are not all:
`<!-- keys of AnthropicConfig: api_key, base_url -->`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"
TABLES = ROOT / "bud_asgi" / "config"

_TABLE = re.compile(r"(<!-- keys of (\w+)(?:: ([\w, ]+))? -->\n)(\|[^\n]*\n)(?:\|[^\n]*\n)*")


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(generated(PAGE.read_text()))


def generated(page: str) -> str:
    """The text of a page with its tables as the code documents them."""
    classes = documented()

    def table(match: re.Match[str]) -> str:
        comment, name, listed, head = match.groups()
        keys = classes[name]
        rows = [f"| `{key}` | {keys[key][0]} | {keys[key][1]} |\n" for key in (listed.split(", ") if listed else keys)]
        return comment + head + "|---|---|---|\n" + "".join(rows)

    return _TABLE.sub(table, page)


def documented() -> dict[str, dict[str, tuple[str, str]]]:
    """For each class its documented keys, each with its meaning and its default."""
    modules = (ast.parse(path.read_text()) for path in sorted(TABLES.glob("*tables.py")))
    classes = (node for module in modules for node in module.body if isinstance(node, ast.ClassDef))
    return {one.name: {key: _columns(text) for key, text in _docstrings(one).items()} for one in classes}


def _docstrings(one: ast.ClassDef) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for field, following in zip(one.body, one.body[1:], strict=False):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                found[key] = text
            case _:
                pass
    return found


def _columns(docstring: str) -> tuple[str, str]:
    meaning, default = (" ".join(part.split()) for part in (*docstring.split("\n\n"), "")[:2])
    meaning = meaning.removesuffix(".")
    if meaning[:1] != "`":
        meaning = meaning[:1].lower() + meaning[1:]
    return meaning, "required" if default == "Required." else default.removeprefix("Default: ")


if __name__ == "__main__":
    main()
