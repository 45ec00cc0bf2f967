"""Warnings about the permissions of a configuration file and of the files with secrets that it names."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import Problem, Problems

_READ_BY_OTHERS, _WRITTEN_BY_OTHERS = 0o044, 0o022


def permission_warnings(source: str) -> Sequence[Problem]:
    """Return a warning for each file that its group or others can use in a way that they should not.

    `source` is the path of a valid configuration file; for `environment` there is none.
    """
    file = Path(source)
    if not file.is_file():
        return ()
    text = file.read_bytes().decode("utf-8-sig")
    warnings, mode = Problems(source, text), _mode(file)
    if mode & _WRITTEN_BY_OTHERS:
        warnings.add((), f"can be written by its group or by others (mode {mode:04o}): chmod go-w")
    content: dict[str, Any] = tomllib.loads(text)
    tables: dict[KeyPath, dict[str, Any]] = {
        ("providers", name): table for name, table in content.get("providers", {}).items()
    }
    for path, table in {**tables, **{(name,): content.get(name, {}) for name in ("store", "key_store")}}.items():
        for key, secret in _secret_files(table):
            mode = _mode(file.parent / secret)
            if mode & _READ_BY_OTHERS:
                what = f"{file.parent / secret} can be read by its group or by others (mode {mode:04o}): chmod go="
                warnings.add((*path, key), what)
    return warnings.in_order()


def _secret_files(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, str) and value.startswith("file:"):
            yield key, value.removeprefix("file:")
        elif isinstance(value, str) and key == "service_account_file":
            yield key, value


def _mode(file: Path) -> int:
    """The permission bits of a file; 0 where there are none."""
    try:
        return file.stat().st_mode & 0o777 if os.name == "posix" else 0
    except OSError:
        return 0
