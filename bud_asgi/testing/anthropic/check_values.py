"""Checks of single values. Errors are worded as the service words them, `<path>: <reason>`, the first failure only.

Every check raises `Rejected`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from bud_asgi.testing.anthropic.errors import Rejected, invalid_request

Fields = Mapping[str, Any]


def require(fields: Fields, name: str, prefix: str = "") -> Any:
    """Return the value of a required field. `prefix` is the object's path with a dot."""
    if name not in fields:
        raise invalid_request(f"{prefix}{name}: Field required")
    return fields[name]


def expect_string(value: object, path: str) -> str:
    """Return `value`, which must be a string."""
    if not isinstance(value, str):
        raise invalid_request(f"{path}: Input should be a valid string")
    return value


def expect_integer(value: object, path: str, *, minimum: int) -> int:
    """Return `value`, which must be an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_request(f"{path}: Input should be a valid integer")
    if value < minimum:
        raise invalid_request(f"{path}: Input should be greater than or equal to {minimum}")
    return value


def expect_number(value: object, path: str, *, minimum: float, maximum: float) -> float:
    """Return `value`, which must be a number within these bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_request(f"{path}: Input should be a valid number")
    if value < minimum:
        raise invalid_request(f"{path}: Input should be greater than or equal to {minimum:g}")
    if value > maximum:
        raise invalid_request(f"{path}: Input should be less than or equal to {maximum:g}")
    return value


def expect_boolean(value: object, path: str) -> bool:
    """Return `value`, which must be true or false."""
    if not isinstance(value, bool):
        raise invalid_request(f"{path}: Input should be a valid boolean")
    return value


def expect_list(value: object, path: str) -> list[object]:
    """Return `value`, which must be a list."""
    if not isinstance(value, list):
        raise invalid_request(f"{path}: Input should be a valid list")
    return cast("list[object]", value)


def expect_object(value: object, path: str) -> Fields:
    """Return `value`, which must be an object."""
    if not isinstance(value, dict):
        raise invalid_request(f"{path}: Input should be a valid dictionary")
    return cast("dict[str, Any]", value)


def expect_one_of(value: object, allowed: Iterable[str], path: str) -> str:
    """Return `value`, which must be one of these strings."""
    options = list(allowed)
    if not isinstance(value, str) or value not in options:
        *others, last = [f"'{option}'" for option in options]
        expected = f"{', '.join(others)} or {last}" if others else last
        raise invalid_request(f"{path}: Input should be {expected}")
    return value


def expect_type(fields: Fields, allowed: Iterable[str], path: str) -> str:
    """Return the `type` of an object, which must be one of `allowed`."""
    if "type" not in fields:
        raise invalid_request(f"{path}.type: Field required")
    tag, expected = fields["type"], sorted(allowed)
    if tag not in expected:
        raise unexpected_type(path, tag, expected)
    return str(tag)


def forbid_unknown(fields: Fields, allowed: Iterable[str], prefix: str = "") -> None:
    """Reject any field that is not in `allowed`. `prefix` is the object's path with a dot."""
    known = set(allowed)
    for name in fields:
        if name not in known:
            raise unknown_field(f"{prefix}{name}")


def unknown_field(path: str) -> Rejected:
    """Make the error for a field that the service does not know."""
    return invalid_request(f"{path}: Extra inputs are not permitted")


def unexpected_type(path: str, tag: object, expected: Iterable[str]) -> Rejected:
    """Make the error for an object whose `type` is not one of `expected`."""
    names = ", ".join(f"'{name}'" for name in expected)
    reason = f"Input tag '{tag}' found using 'type' does not match any of the expected tags: {names}"
    return invalid_request(f"{path}: {reason}")
