"""Checks of single values, worded as the service words them: `<path>: <reason>`, the first failure only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from bud_asgi.testing.anthropic.refusals import invalid

Fields = Mapping[str, Any]


def required(fields: Fields, name: str, at: str = "") -> Any:
    """The field's value; refused if it is absent."""
    if name not in fields:
        raise invalid(f"{at}{name}: Field required")
    return fields[name]


def a_string(value: object, at: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise invalid(f"{at}: Input should be a valid string")
    return value


def an_integer(value: object, at: str, *, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{at}: Input should be a valid integer")
    if value < least:
        raise invalid(f"{at}: Input should be greater than or equal to {least}")
    return value


def a_number(value: object, at: str, *, least: float, most: float) -> float:
    """A number between two bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(f"{at}: Input should be a valid number")
    if value < least:
        raise invalid(f"{at}: Input should be greater than or equal to {least:g}")
    if value > most:
        raise invalid(f"{at}: Input should be less than or equal to {most:g}")
    return value


def a_boolean(value: object, at: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise invalid(f"{at}: Input should be a valid boolean")
    return value


def a_list(value: object, at: str) -> list[object]:
    """A list."""
    if not isinstance(value, list):
        raise invalid(f"{at}: Input should be a valid list")
    return cast("list[object]", value)


def an_object(value: object, at: str) -> Fields:
    """An object."""
    if not isinstance(value, dict):
        raise invalid(f"{at}: Input should be a valid dictionary")
    return cast("dict[str, Any]", value)


def one_of(value: object, allowed: Iterable[str], at: str) -> str:
    """One of these strings."""
    options = list(allowed)
    if not isinstance(value, str) or value not in options:
        *most, last = [f"'{option}'" for option in options]
        raise invalid(f"{at}: Input should be {', '.join(most)} or {last}" if most else f"{at}: Input should be {last}")
    return value


def tagged(fields: Fields, allowed: Iterable[str], at: str) -> str:
    """The `type` of a tagged union's member."""
    tag = fields.get("type")
    if "type" not in fields:
        raise invalid(f"{at}.type: Field required")
    expected = sorted(allowed)
    if tag not in expected:
        names = ", ".join(f"'{name}'" for name in expected)
        words = "Input tag '{}' found using 'type' does not match any of the expected tags: {}"
        raise invalid(f"{at}: {words.format(tag, names)}")
    return str(tag)


def no_others(fields: Fields, allowed: Iterable[str], at: str = "") -> None:
    """No field but these."""
    known = set(allowed)
    for name in fields:
        if name not in known:
            raise invalid(f"{at}{name}: Extra inputs are not permitted")
