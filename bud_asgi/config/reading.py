"""Reading of single tables: keys and types, references to secrets, and the objects made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints
from urllib.parse import unquote

import msgspec

from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import Problems
from bud_asgi.config.tables import GatewayConfig
from bud_asgi.extras import MissingExtra
from bud_asgi.options import OptionError, key_text, looks_secret, nearest, option_path, path_shown, shown
from bud_asgi.secret import Secret

T = TypeVar("T")

_TYPES = {
    bool: "true or false",
    dict[str, Any]: "a table",
    float: "a number",
    int: "a whole number",
    list[Any]: "a list of tables",
    list[str]: "a list of strings",
    str: "a string",
}
SERVE_OPTIONS = frozenset(
    {
        "access_log_format",
        "drain_timeout",
        "fd",
        "forwarded_allow_ips",
        "host",
        "keep_alive",
        "limit_concurrency",
        "limit_connections",
        "log_level",
        "metrics_host",
        "metrics_port",
        "per_worker_limits",
        "port",
        "root_path",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_keyfile_password",
        "status",
        "status_key",
        "uds",
        "watch",
        "workers",
    }
)
"""The options of `bud-asgi serve`, which some look for in the file."""

_REFERENCE = re.compile(r"env:(?P<variable>[A-Za-z_][A-Za-z0-9_]*)|file:(?P<file>[^\0]+)")
_FOREIGN_REFERENCE = re.compile(r"\$\{?\w+\}?|\{env[.:]\w+\}|\{\{.*\}\}|%\w+%|os\.environ.*|env\.\w+", re.DOTALL)
_URL = re.compile(r"sqlite:|[a-z+]+://")
_VARIABLE = re.compile(r"[A-Z]{1,20}[0-9]?(?:_[A-Z0-9]{1,20})*")
_EXPECTED_REFERENCE = "expected a reference such as env:NAME or file:PATH"
_UNRESOLVED = Secret("unresolved")


class TableReader:
    """Reads tables and notes their problems. Relative paths in the file start at `folder`.

    `tables` are those that an object was made of, by key path, with what their references stand for.
    """

    def __init__(self, problems: Problems, environ: Mapping[str, str], folder: Path) -> None:
        self.problems = problems
        self.folder = folder
        self.tables: dict[KeyPath, Mapping[str, object]] = {}
        self._environ = environ

    def read(self, kind: type[T], table: object, path: KeyPath) -> T | None:
        """Return the keys of a table that have the right type; `None` if it is not a table."""
        given = as_table(table)
        if given is None:
            self.problems.add(path, f"expected a table, got {toml_shown(table)}")
            return None
        types = get_type_hints(kind)
        right: dict[str, Any] = {}
        for key, value in given.items():
            where = (*path, key)
            if key not in types:
                self.problems.add(where, _unknown_key(key, types, path))
            elif value in ("", [], {}):
                self.problems.add(where, "must not be empty")
            elif types[key] is Secret:
                right[key] = self.secret(value, where)
            elif types[key] is object or _has_type(value, types[key]):
                right[key] = value
            else:
                hint = _how_to_write(where, value) if types[key] == list[Any] else ""
                self.problems.add(where, f"expected {_TYPES[types[key]]}{hint}, got {toml_shown(value)}")
        return cast("T", right)

    def make(
        self,
        kind: type[Any],
        make: Callable[..., T],
        options: Mapping[str, Any],
        path: KeyPath,
        required: Mapping[str, Any],
    ) -> T | None:
        """Make the object of a table from its options; `None` if anything at or below its path is wrong.

        `required` are options that must be there, and a valid value for each.
        """
        types = get_type_hints(kind)

        def note(error: OptionError) -> None:
            if types.get(error.option) is Secret and error.option not in options:
                error = OptionError(error.option, f"missing; {_EXPECTED_REFERENCE}", other=error.other)
            self.problems.add_option(path, error)

        try:
            made = make_all_checks(make, options, required, note)
        except MissingExtra as error:
            self.problems.add(path, str(error))
            return None
        self.tables[path] = options
        return None if self.problems.within(path) else made

    def secret(self, reference: object, path: KeyPath, expected: str = _EXPECTED_REFERENCE) -> Secret:
        """Look up a reference. Where that fails a stand-in is returned, so that the other options can be checked."""
        parts = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        if parts is None:
            foreign = isinstance(reference, str) and _FOREIGN_REFERENCE.fullmatch(reference)
            got = "; a reference to an environment variable is written env:NAME" if foreign else ""
            self.problems.add(path, f"{expected}, got a value that is not shown{got}")
            return _UNRESOLVED
        try:
            if variable := parts["variable"]:
                return Secret(_variable(variable, self._environ))
            self.problems.files.add(self.folder / parts["file"])
            return Secret(_file_text(parts["file"], self.folder))
        except ValueError as error:
            self.problems.add(path, str(error))
            return _UNRESOLVED

    def url(self, value: object, path: KeyPath, expected: str, valid: str) -> str | Secret:
        """The URL of a store, looked up if it is a reference. Where that fails, `valid` takes its place."""
        literal = value if isinstance(value, str) and _URL.match(value) else ""
        url: str | Secret = literal
        if value is None:
            self.problems.add(path, f"missing; {expected}")
        elif not literal or literal.startswith(("env:", "file:")):
            url = self.secret(value, path, expected)
        elif "@" in (plain := unquote(literal)) or "password=" in plain.lower():
            hint = "a URL with a user or password must be a reference such as env:NAME or file:PATH"
            self.problems.add(path, f"{hint}; the value is not shown")
        return valid if self.problems.at(path) else url


def reference(text: str, option: str, environ: Mapping[str, str]) -> Secret:
    """Look up a reference such as `env:NAME` that is an option of a command. Raises `ConfigError`."""
    problems = Problems("")
    secret = TableReader(problems, environ, Path()).secret(text, (option,))
    problems.raise_any()
    return secret


def make_all_checks(
    make: Callable[..., T],
    options: Mapping[str, Any],
    required: Mapping[str, Any],
    note: Callable[[OptionError], None],
) -> T | None:
    """Call a constructor until it accepts the options, and note each one that it refused; `None` if it never does.

    A refused option is left out, or has the valid value that `required` gives for it: so that one wrong option does not
    hide the next.
    """
    given: dict[str, Any] = {**dict.fromkeys(required), **options}
    refused: set[str] = set()
    while True:
        try:
            return make(**given)
        except OptionError as error:
            note(error)
            if error.option in refused:
                return None
            refused.add(error.option)
            _leave_out(given, option_path(error.option), required)


def _leave_out(given: dict[str, Any], path: KeyPath, required: Mapping[str, Any]) -> None:
    """Remove an option, or only one entry of it if it is a table."""
    option, key = str(path[0]), path[-1]
    entries = as_table(given.pop(option, None))
    if option in required:
        given[option] = required[option]
    elif entries is not None and len(path) > 1:
        given[option] = {name: value for name, value in entries.items() if name != key}


def _has_type(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def as_table(value: object) -> dict[str, object] | None:
    """Return a TOML value if it is a table."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def toml_shown(value: object) -> str:
    """Describe a value in the terms of TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return (
        "a table" if isinstance(value, dict) else "a date or time" if isinstance(value, date | time) else shown(value)
    )


def _how_to_write(path: KeyPath, value: object) -> str:
    """How the first table of a list is written, for a table with one pair of brackets."""
    name = ".".join(key_text(key) for key in path if isinstance(key, str))
    return f", each of them below [[{name}]]" if isinstance(value, dict) else ""


def _unknown_key(key: str, known: Mapping[str, Any], path: KeyPath) -> str:
    if path and key in get_type_hints(GatewayConfig):
        return "a top-level key: it must stand before the first table"
    if key in SERVE_OPTIONS:
        return f"an option of the command line: bud-asgi serve --{key.replace('_', '-')}"
    *most, last = known
    return f"unknown key{nearest(key, known)}; expected {', '.join(most)} or {last}"


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if value := environ.get(name):
        try:
            return Secret(value).reveal()
        except ValueError as error:
            raise ValueError(f"the environment variable {name} cannot be used: {error}") from None
    if not _VARIABLE.fullmatch(name) or ("_" not in name and looks_secret(name)):
        raise ValueError("the environment variable is not set; its name looks like a secret and is not shown")
    raise ValueError(f"the environment variable {name} is not set")


def _file_text(name: str, folder: Path) -> str:
    """Read a file, without the line break that editors leave at its end."""
    file = folder / name
    shown_file = str(file) if path_shown(name) == name else path_shown(name)
    try:
        return Secret(file.read_bytes().decode().removesuffix("\n").removesuffix("\r")).reveal()
    except OSError as error:
        raise ValueError(f"cannot read {shown_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{shown_file}: not text") from None
    except ValueError as error:
        raise ValueError(f"{shown_file}: {error}") from None
