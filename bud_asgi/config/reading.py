"""A table of a file as a struct, field by field: every error in it is found, not the first alone."""

from __future__ import annotations

from typing import Any, TypeVar, cast, get_args

import msgspec

from bud_asgi.config.problems import Problems, joined, listed, nearest, shown

T = TypeVar("T", bound=msgspec.Struct)


def read_table(kind: type[T], table: object, path: str, problems: Problems) -> T | None:
    """The table as a struct of its kind: what is wrong is noted, and has the field's default.

    `None` where that is not enough: it is no table, or lacks a right value for a field that must be there.
    """
    given = as_table(table)
    if given is None:
        problems.mismatch(path, shown(table), "a table")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in fields:
            problems.add(joined(path, key), f"unknown key{nearest(key, fields)}; allowed are {listed(fields)}")
            continue
        try:
            values[key] = msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError:
            rule = _rule(fields[key])
            found = shown(value) if (rule.extra or {}).get("shown", True) else _kind_of(value)
            problems.mismatch(joined(path, key), found, rule.description or "")
    required = [field for field in fields.values() if field.required]
    for field in required:
        if field.name not in given:
            problems.mismatch(joined(path, field.name), "nothing", _rule(field).description or "")
    return kind(**values) if all(field.name in values for field in required) else None


def as_table(value: object) -> dict[str, object] | None:
    """A value of a TOML file as a table, `None` if it is something else."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def refuse_repeated(tables: list[Any], field: str, path: str, problems: Problems) -> None:
    """Note each table of a list whose field has the value of an earlier one."""
    first: dict[str, int] = {}
    for index, table in enumerate(tables):
        value = (as_table(table) or {}).get(field)
        if isinstance(value, str) and first.setdefault(value, index) != index:
            problems.add(f"{path}[{index}].{field}", f"found {shown(value)}, which {path}[{first[value]}] has already")


def _rule(field: msgspec.structs.FieldInfo) -> msgspec.Meta:
    """The outermost `Meta` of a field's type."""
    return next((part for part in get_args(field.type) if isinstance(part, msgspec.Meta)), msgspec.Meta())


def _kind_of(value: object) -> str:
    """What is said of a value that may be a secret."""
    return "a string that is not shown here" if isinstance(value, str) else shown(value)
