"""Read limits, and the store that counts them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import Problems, render
from bud_asgi.config.reading import TableReader, as_table
from bud_asgi.config.tables import LimitConfig, StoreConfig
from bud_asgi.limit import KINDS, PER, Dimension, Kind, Limit, check_own_limits, limit_id
from bud_asgi.limits import LimitStore, RedisStore
from bud_asgi.options import (
    OptionError,
    check_choice,
    check_function,
    check_name,
    check_type,
    duplicates,
    key_text,
    mismatch,
)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([1-9][0-9]{0,5})(ms|s|m|h|d)")
_DURATION_EXPECTED = 'a duration such as "50ms", "30s", "1m", "1h" or "1d", or a number of seconds'
_URL_EXPECTED = 'expected a URL such as "redis://host:6379", or a reference such as env:NAME or file:PATH'
_VALID_URL = "redis://localhost:6379"
_ANY_KIND: Kind = "tokens"
"""A kind that every other key of a limit can be combined with."""


def check_dimensions(dimensions: Mapping[str, Dimension] | None) -> Mapping[str, Dimension]:
    """Check for a mapping of names, which `per` has in the file, to functions, and return it. Raises `OptionError`."""
    if dimensions is None:
        return {}
    check_type("dimensions", dimensions, Mapping, "a mapping of names to functions of the Exchange")
    for name, dimension in dimensions.items():
        check_name("dimensions", name)
        option = f"dimensions.{key_text(name)}"
        if name in PER:
            raise OptionError(option, "the name of a built-in dimension; expected another name")
        check_function(option, dimension, "a function of the Exchange that returns a string or None", None)
    return dimensions


def read_limits(
    reader: TableReader, tables: Sequence[object], path: KeyPath, dimensions: Mapping[str, Dimension], *, own: bool
) -> tuple[Limit, ...]:
    """Read a list of limits; those with problems, which are noted, are left out. `own`: they belong to a key."""
    limits = [_read_limit(reader, table, (*path, index), dimensions, own) for index, table in enumerate(tables)]
    for index, first in duplicates(limit_id(limit) if limit else object() for limit in limits):
        same = render((*path, first))
        reader.problems.add((*path, index), f"counts the same as {same}; expected one limit for both")
    return tuple(one for index, one in enumerate(limits) if one and not reader.problems.at((*path, index)))


def _read_limit(
    reader: TableReader, table: object, path: KeyPath, dimensions: Mapping[str, Dimension], own: bool
) -> Limit | None:
    read = reader.read(LimitConfig, table, path)
    if read is None:
        return None
    kind = _read_kind(reader.problems, table, path)
    options: dict[str, Any] = {key: value for key, value in read.items() if key not in KINDS or key == kind}
    if kind is None:
        kind = _ANY_KIND
        options[kind] = 1
    return reader.make(LimitConfig, partial(_limit, kind, dimensions, own), options, path, {kind: 1})


def _read_kind(problems: Problems, table: object, path: KeyPath) -> Kind | None:
    """The key that holds the amount. Notes a problem unless there is exactly one."""
    kinds: dict[str, Kind] = {kind: kind for kind in KINDS}
    given: list[Kind] = [kinds[key] for key in as_table(table) or {} if key in kinds]
    if not given:
        *most, last = KINDS
        problems.add(path, f"no amount; expected one of the keys {', '.join(most)} or {last}")
    for other in given[1:]:
        problems.add((*path, other), f"cannot be combined with {given[0]}; expected a limit of its own for each")
    return given[0] if len(given) == 1 else None


def _limit(kind: Kind, dimensions: Mapping[str, Dimension], own: bool, **options: Any) -> Limit:
    """Make a limit of the keys of its table, and name those in errors."""
    for option in ("window", "wait"):
        if option in options:
            options[option] = seconds_of(option, options[option])
    if (per := options.get("per", PER[0])) not in PER:
        check_choice("per", per, (*PER, *dimensions))
        options["per"] = dimensions[per]
    try:
        limit = Limit(kind, options.pop(kind), **options)
        return check_own_limits((limit,))[0] if own else limit
    except OptionError as error:
        option = error.option.removeprefix("limits[0].")
        other = None if error.other == "kind" else error.other  # a wrong amount is still of that kind
        raise OptionError(kind if option == "amount" else option, error.problem, other=other) from None


def seconds_of(option: str, value: object) -> Any:
    """A duration such as `30s` as seconds. Raises `OptionError`; numbers are left for the constructor to check."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    parts = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        raise mismatch(option, _DURATION_EXPECTED, value)
    return int(parts[1]) * _SECONDS[parts[2]]


def read_store(reader: TableReader, table: object, *, has_limits: bool) -> LimitStore | None:
    """Read the table of the store; `None`, with the problems noted, if it cannot be made."""
    path: KeyPath = ("store",)
    read = reader.read(StoreConfig, table, path)
    if read is None:
        return None
    if not has_limits:
        reader.problems.add(path, "meaningless without limits; expected [[limits]] tables, or limits of a key")
    options: dict[str, Any] = {**read, "url": reader.url(read.get("url"), (*path, "url"), _URL_EXPECTED, _VALID_URL)}
    store = reader.make(StoreConfig, _store, options, path, {"url": _VALID_URL})
    is_local, has_replicas = read.get("on_failure") == "local", "replicas" in read
    if has_replicas and not is_local:
        error = OptionError("replicas", 'meaningless without on_failure = "local"', other="on_failure")
        reader.problems.add_option(path, error)
    if is_local and not has_replicas:
        expected = "expected the number of processes among which the limits are divided while the store is away"
        reader.problems.add((*path, "replicas"), f'missing; for on_failure = "local", {expected}')
    return store


def _store(**options: Any) -> LimitStore:
    if "timeout" in options:
        options["timeout"] = seconds_of("timeout", options["timeout"])
    return RedisStore(**options)
