"""Durations in a configuration file, and the timeouts of upstream requests."""

from __future__ import annotations

import re
from typing import Any

from bud_asgi.config.lines import KeyPath
from bud_asgi.config.reading import TableReader, toml_shown
from bud_asgi.config.tables import TimeoutsConfig
from bud_asgi.options import OptionError
from bud_asgi.timeouts import Timeouts

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([1-9][0-9]{0,5})(ms|s|m|h|d)")
_EXPECTED = 'a duration such as "50ms", "30s", "1m", "1h" or "1d", or a number of seconds'


def in_seconds(option: str, value: object) -> Any:
    """A duration as seconds. Raises `OptionError`; numbers are left for the constructor to check."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    parts = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        raise OptionError(option, f"expected {_EXPECTED}, got {toml_shown(value)}")
    return int(parts[1]) * _SECONDS[parts[2]]


def read_timeouts(reader: TableReader, table: object, path: KeyPath) -> Timeouts | None:
    """Read a table of timeouts; `None`, with the problems noted, if it is invalid."""
    read = reader.read(TimeoutsConfig, table, path)
    return None if read is None else reader.make(TimeoutsConfig, _timeouts, read, path, {})


def _timeouts(**options: object) -> Timeouts:
    return Timeouts(**{option: in_seconds(option, value) for option, value in options.items()})
