"""Settings from environment variables, for one provider without a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from bud_asgi.auth import ApiKey, SqlKeyStore
from bud_asgi.budget import body_budget
from bud_asgi.config.divide import divide_limits
from bud_asgi.config.file import read_file, read_file_keys
from bud_asgi.config.keys import KeySettings
from bud_asgi.config.problems import Problems
from bud_asgi.config.providers import KINDS
from bud_asgi.config.reading import make_all_checks
from bud_asgi.config.settings import ConfiguredProvider, Settings
from bud_asgi.extras import MissingExtra
from bud_asgi.options import OptionError, check_choice, duplicates, shown
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.secret import Secret, secret_option

SOURCE = "environment"
"""Takes the place of a file name in errors."""

LIMITS_DIVISOR = "BUD_ASGI_LIMITS_DIVISOR"
"""The variable that `bud-asgi serve --per-worker-limits` sets for its workers."""

_VARIABLES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "anthropic": {"api_key": ("ANTHROPIC_API_KEY",), "base_url": ("ANTHROPIC_BASE_URL",)},
    "bedrock": {"region": ("AWS_REGION", "AWS_DEFAULT_REGION")},
    "vertex": {"project": ("ANTHROPIC_VERTEX_PROJECT_ID",), "region": ("CLOUD_ML_REGION",)},
}
"""For each kind of provider its options, and the variables that set them: the first one that is set counts."""

_FLAGS: Mapping[str, str] = {"access_log": "BUD_ASGI_ACCESS_LOG", "opentelemetry": "BUD_ASGI_OPENTELEMETRY"}
"""The switches that a file may leave to the environment."""

_SIZES: Mapping[str, str] = {
    "max_body": "BUD_ASGI_MAX_BODY",
    "body_budget": "BUD_ASGI_BODY_BUDGET",
    "body_budget_per_principal": "BUD_ASGI_BODY_BUDGET_PRINCIPAL",
}


def read_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ`, by default the process environment. An empty variable counts as not set.

    `BUD_ASGI_CONFIG` is the path of a file, which then decides. Otherwise `BUD_ASGI_PROVIDER` is the kind of the one
    provider: `anthropic` (the default) is configured by `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL`, `bedrock` by
    `AWS_REGION`, `vertex` by `ANTHROPIC_VERTEX_PROJECT_ID` and `CLOUD_ML_REGION`. `BUD_ASGI_KEYS` are the callers'
    keys, and `BUD_ASGI_KEY_STORE` is the URL of a store of further ones, hashed with `BUD_ASGI_KEY_PEPPER`;
    `BUD_ASGI_ALLOW_ANONYMOUS=1` admits everyone instead. `BUD_ASGI_MAX_BODY`, `BUD_ASGI_BODY_BUDGET` and
    `BUD_ASGI_BODY_BUDGET_PRINCIPAL` are in bytes. `BUD_ASGI_ACCESS_LOG=1` turns the access log on, and
    `BUD_ASGI_OPENTELEMETRY=1` traces and metrics, unless a file sets them. `BUD_ASGI_LIMITS_DIVISOR` is the number of
    processes among which the limits of a file are divided. Raises `ConfigError`.
    """
    environ = os.environ if environ is None else environ
    problems = Problems(SOURCE)
    flags: dict[str, Any] = {name: _flag(variable, environ, problems) for name, variable in _FLAGS.items()}
    divisor = _divisor(environ, problems)
    if file := environ.get("BUD_ASGI_CONFIG"):
        problems.raise_any()
        settings = read_file(file, environ=environ)
        settings = divide_limits(settings, divisor) if divisor > 1 and settings.has_limits else settings
        unset = {name: flag for name, flag in flags.items() if getattr(settings, name) is None}
        return msgspec.structs.replace(settings, **unset)
    provider = _provider(environ, problems)
    keys, key_store, pepper = tuple(_keys(environ, problems)), _key_store(environ, problems), _pepper(environ, problems)
    _check_callers(environ, problems)
    max_body, budget, per_principal = _sizes(environ, problems)
    problems.raise_any()
    return Settings(
        source=SOURCE,
        providers=(provider,) if provider else (),
        keys=keys,
        key_store=key_store,
        key_pepper=pepper,
        max_body=max_body,
        body_budget=budget,
        body_budget_per_principal=per_principal,
        **flags,
    )


def read_environment_keys(environ: Mapping[str, str] | None = None) -> KeySettings:
    """Read the part of the settings that is about keys: of the file `BUD_ASGI_CONFIG`, or of `BUD_ASGI_KEY_STORE`.

    Raises `ConfigError`.
    """
    environ = os.environ if environ is None else environ
    if file := environ.get("BUD_ASGI_CONFIG"):
        return read_file_keys(file, environ)
    problems = Problems(SOURCE)
    pepper, keys = _pepper(environ, problems), tuple(_keys(environ, problems))
    store = _key_store(environ, problems)
    problems.raise_any()
    return KeySettings(SOURCE, keys, store, pepper)


def _pepper(environ: Mapping[str, str], problems: Problems) -> Secret | None:
    try:
        return secret_option("BUD_ASGI_KEY_PEPPER", environ.get("BUD_ASGI_KEY_PEPPER") or None)
    except OptionError as error:
        problems.add_option((), error)
        return None


def _key_store(environ: Mapping[str, str], problems: Problems) -> SqlKeyStore | None:
    url = environ.get("BUD_ASGI_KEY_STORE")
    try:
        return SqlKeyStore(url) if url else None
    except (OptionError, MissingExtra) as error:
        problems.add(("BUD_ASGI_KEY_STORE",), error.problem if isinstance(error, OptionError) else str(error))
        return None


def _flag(variable: str, environ: Mapping[str, str], problems: Problems) -> bool | None:
    value = environ.get(variable)
    if value not in {None, "", "0", "1"}:
        problems.add((variable,), f"expected 1 or 0, got {shown(value)}")
    return value == "1" if value else None


def _divisor(environ: Mapping[str, str], problems: Problems) -> int:
    text = environ.get(LIMITS_DIVISOR) or "1"
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 6 and int(text)):
        problems.add((LIMITS_DIVISOR,), f"expected a number of processes, at least 1, got {shown(text)}")
        return 1
    return int(text)


def _size(option: str, default: Any, environ: Mapping[str, str]) -> Any:
    text = environ.get(_SIZES[option])
    return int(text) if text and text.isdecimal() else text or default


def _sizes(environ: Mapping[str, str], problems: Problems) -> tuple[Any, Any, Any]:
    sizes = (
        _size("max_body", DEFAULT_MAX_BODY, environ),
        _size("body_budget", None, environ),
        _size("body_budget_per_principal", None, environ),
    )
    try:
        body_budget(*sizes)
    except OptionError as error:
        problems.add((_SIZES[error.option],), error.problem)
    return sizes


def _provider(environ: Mapping[str, str], problems: Problems) -> ConfiguredProvider | None:
    kind = environ.get("BUD_ASGI_PROVIDER") or "anthropic"
    try:
        check_choice("BUD_ASGI_PROVIDER", kind, tuple(KINDS))
    except OptionError as error:
        problems.add_option((), error)
        return None
    _, provider, required = KINDS[kind]
    used = {
        option: next((variable for variable in variables if environ.get(variable)), variables[0])
        for option, variables in _VARIABLES[kind].items()
    }
    options = {option: environ[variable] for option, variable in used.items() if environ.get(variable)}

    def note(error: OptionError) -> None:
        problem = error.problem
        if error.option == "api_key" and "api_key" not in options:
            problem = "not set; set it, or set BUD_ASGI_CONFIG to the path of a configuration file"
        problems.add((used.get(error.option, error.option),), problem)

    return make_all_checks(provider, options, required, note)


def _keys(environ: Mapping[str, str], problems: Problems) -> Iterator[ApiKey]:
    """Read `NAME=sha256:HEX,...`."""
    entries = [entry.strip() for entry in environ.get("BUD_ASGI_KEYS", "").split(",")]
    pairs = [[part.strip() for part in entry.split("=", 1)] for entry in entries if entry]
    for index, pair in enumerate(pairs):
        try:
            yield ApiKey(name=pair[0], hash=pair[-1])
        except OptionError:
            expected = "expected NAME=sha256:HEX, with 64 lower-case hex digits, as shown by `bud-asgi keys new NAME`"
            problems.add(("BUD_ASGI_KEYS", index), f"{expected}; the entry is not shown")
    for place in (0, -1):
        for index, first in duplicates(pair[place] for pair in pairs):
            problems.add(("BUD_ASGI_KEYS", index), f"duplicate name or hash, already used by BUD_ASGI_KEYS[{first}]")


def _check_callers(environ: Mapping[str, str], problems: Problems) -> None:
    anonymous = _flag("BUD_ASGI_ALLOW_ANONYMOUS", environ, problems)
    keys = {name: environ.get(name, "").strip(" ,") for name in ("BUD_ASGI_KEYS", "BUD_ASGI_KEY_STORE")}
    given = [name for name, value in keys.items() if value]
    if given and anonymous:
        problems.add(("BUD_ASGI_ALLOW_ANONYMOUS",), f"cannot be combined with {given[0]}")
    elif not given and not anonymous:
        problems.add(
            ("BUD_ASGI_KEYS",),
            "missing; expected NAME=sha256:HEX,..., or BUD_ASGI_KEY_STORE, or BUD_ASGI_ALLOW_ANONYMOUS=1 to admit all",
        )
