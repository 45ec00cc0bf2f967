"""Line numbers of key paths agree with tomllib, whatever the document looks like."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.config.lines import KeyPath, Lines

DOCUMENT = '''# a comment
max_body = 1

[providers.a]
kind = "anthropic"
timeouts = { connect = 1, silence = 2 }
text = """
[[keys]]
name = "not a key"
"""
[providers.a.models]
"x y" = 1
literal = \'\'\'
[providers.b]
\'\'\'
[[keys]]
[[keys]] # the second
models = [ # several lines
  "a]", # [[keys]]
  """
b""",
]
name.first = 1
[[routes]]
to = [{ provider = "p" }, 5]
'''

LINES: dict[str, tuple[KeyPath, int | None]] = {
    "a top-level key": (("max_body",), 2),
    "a table that is only implied": (("providers",), 4),
    "a table": (("providers", "a"), 4),
    "a key of a table": (("providers", "a", "kind"), 5),
    "a key of an inline table": (("providers", "a", "timeouts", "silence"), 6),
    "a string over several lines begins at its key": (("providers", "a", "text"), 7),
    "a key in quotes": (("providers", "a", "models", "x y"), 12),
    "a literal string over several lines": (("providers", "a", "models", "literal"), 13),
    "a missing key has the line of its table": (("providers", "a", "nope", "deeper"), 4),
    "the first table of a list": (("keys", 0, "name"), 16),
    "the second": (("keys", 1), 17),
    "a list over several lines begins at its key": (("keys", 1, "models", 1), 18),
    "a dotted key": (("keys", 1, "name", "first"), 23),
    "a target": (("routes", 0, "to", 0, "provider"), 25),
    "a target that is not there": (("routes", 0, "to", 2), 25),
    "nothing": ((), None),
    "a missing top-level key": (("limits", 0), None),
}


@pytest.mark.parametrize(("path", "line"), LINES.values(), ids=LINES.keys())
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_a_path_is_found_at_the_line_where_it_is_defined(path: KeyPath, line: int | None, line_break: str) -> None:
    assert Lines(DOCUMENT.replace("\n", line_break)).find(path) == line


_keys = st.sampled_from(["a", "b", "c d", '"', "#", "[x]", "="])
_values = st.one_of(
    st.integers(0, 9).map(str),
    st.text("a#[]='\" \\", max_size=5).map(json.dumps),
    st.sampled_from(['"""\n[a]\nb = 1\n"""', "'''\n[[a]]\n'''", "[\n 1, # ]\n 2,\n]", "{ a = 1, b = [2] }"]),
)


def _table(keys: list[str]) -> str:
    return f"[{'.'.join(map(json.dumps, keys))}]"


def _entry(key: str, value: str) -> str:
    return f"{json.dumps(key)} = {value}"


_tables = st.lists(_keys, min_size=1, max_size=3).map(_table)
_statements = st.one_of(
    _tables,
    _tables.map(lambda table: f"[{table}]"),
    st.builds(_entry, _keys, _values),
    st.sampled_from(["", "# [a]", "  # b = 1"]),
)


def _paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in children for found in _paths(child, (*path, key)))]


@given(st.lists(_statements, max_size=8))
@examples(50, 2_000)
def test_each_path_is_found_at_the_statement_that_first_defines_it(statements: list[str]) -> None:
    """The oracle: parse the document statement by statement, and see which paths are new."""
    kept: list[str] = []
    expected: dict[KeyPath, int] = {}
    for statement in statements:
        try:
            document = tomllib.loads("\n".join([*kept, statement]))
        except tomllib.TOMLDecodeError:
            continue  # it does not fit what is there, a second definition for example
        line = "\n".join([*kept, ""]).count("\n") + 1
        kept.append(statement)
        for path in _paths(document):
            expected.setdefault(path, line)
    lines = Lines("\n".join(kept))
    expected.pop((), None)
    assert {path: lines.find(path) for path in expected} == expected
