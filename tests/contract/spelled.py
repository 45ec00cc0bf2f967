"""JSON in any spelling that means something, and request bodies of it."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from bud_asgi.protocol.fields import FIELDS

blanks = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n  "])
numbers = st.sampled_from(["0", "-0.0", "1E+2", "1e400", "0.1e-7", "123456789012345678901234567890", "-1"])
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def _spell(character: str, how: int) -> str:
    """A character of a string: as it is where it may stand so, or escaped."""
    if how == 0 and character not in '"\\' and ord(character) >= 0x20:
        return character
    if how == 1 and character == "/":
        return "\\/"
    return json.dumps(character)[1:-1] if how < 3 else "".join(f"\\u{unit:04X}" for unit in _units(character))


def _units(character: str) -> list[int]:
    wide = character.encode("utf-16-be")
    return [int.from_bytes(wide[at : at + 2], "big") for at in range(0, len(wide), 2)]


@st.composite
def strings(draw: st.DrawFn, text: st.SearchStrategy[str] = names) -> str:
    """A JSON string."""
    return '"' + "".join(_spell(c, int(draw(st.sampled_from("0000123")))) for c in draw(text)) + '"'


def _array(items: list[str], blank: str) -> str:
    return f"[{blank}" + f"{blank},{blank}".join(items) + f"{blank}]"


def _object(items: list[tuple[str, str]], blank: str) -> str:
    return f"{{{blank}" + f"{blank},".join(f"{blank}{key}{blank}:{blank}{value}" for key, value in items) + f"{blank}}}"


values: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(["null", "true", "false"]) | numbers | strings(),
    lambda inner: (
        st.builds(_array, st.lists(inner, max_size=3), blanks)
        | st.builds(_object, st.lists(st.tuples(strings(), inner), max_size=3), blanks)
    ),
    max_leaves=8,
)
"""Any JSON value; an object may have a key twice."""

objects = st.builds(_object, st.lists(st.tuples(strings(), values), max_size=3), blanks)
arrays = st.builds(_array, st.lists(values, max_size=3), blanks)

REQUIRED: dict[str, st.SearchStrategy[str]] = {
    "model": st.just('"claude-haiku-4-5"') | st.just('"claude-\\u0068aiku"'),
    "messages": st.builds(
        _array, st.builds(list.__add__, st.lists(objects, min_size=1, max_size=1), st.lists(values, max_size=3)), blanks
    ),
    "max_tokens": st.sampled_from(["1", "64", "1e2", "100.0", "0", "999999"]),
}
OPTIONAL: dict[str, st.SearchStrategy[str]] = {
    "stream": st.sampled_from(["true", "false"]),
    "system": strings() | arrays,
    "tools": arrays,
    "metadata": objects | st.just("null"),
    "stop_sequences": arrays,
    "temperature": st.sampled_from(["0", "1", "0.5", "1e-1", "null"]),
    "thinking": objects,
    "output_config": objects,
    "context_management": objects,
    "container": strings() | objects,
}
_unknown = st.lists(
    st.tuples(names.filter(lambda name: name not in FIELDS), values), max_size=3, unique_by=lambda f: f[0]
)


@st.composite
def fields(draw: st.DrawFn) -> list[tuple[str, str]]:
    """The top-level fields of a valid request in any order, each name once, the values spelled out."""
    chosen = draw(st.sets(st.sampled_from(sorted(OPTIONAL)), max_size=4))
    known = {**REQUIRED, **{name: OPTIONAL[name] for name in chosen}}
    given = [*((name, draw(value)) for name, value in known.items()), *draw(_unknown)]
    return list(draw(st.permutations(given)))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A valid body, in any spelling."""
    given = draw(fields())
    spelled = [(draw(strings(st.just(name))), value) for name, value in given]
    return (draw(blanks) + _object(spelled, draw(blanks)) + draw(blanks)).encode()
