"""Reading of a whole TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bud_asgi.budget import body_budget
from bud_asgi.config.issuers import read_issuers, read_throttle
from bud_asgi.config.keys import KeySettings, read_key_store, read_keys
from bud_asgi.config.limits import check_dimensions, read_limits, read_store
from bud_asgi.config.problems import ConfigError, Problem, Problems
from bud_asgi.config.providers import read_provider
from bud_asgi.config.reading import TableReader, as_table
from bud_asgi.config.routes import read_routes
from bud_asgi.config.settings import Settings
from bud_asgi.config.tables import GatewayConfig
from bud_asgi.field_policy import FieldPolicy
from bud_asgi.limit import Dimension
from bud_asgi.limits import LimitStore
from bud_asgi.options import OptionError, looks_secret
from bud_asgi.protocol.body import DEFAULT_MAX_BODY

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def read_file(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    dimensions: Mapping[str, Dimension] | None = None,
) -> Settings:
    """Read a file, and its secrets from `environ` (by default the process environment) and from files.

    `dimensions` are functions by the names that limits in the file may have for `per`. Raises `ConfigError` with every
    problem of the file, and `OptionError` for invalid dimensions.
    """
    dimensions = check_dimensions(dimensions)
    return _read_gateway(*_open(path, environ), dimensions)


def read_file_keys(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> KeySettings:
    """Read the keys of a file and its key store, and nothing of the rest. Raises `ConfigError`."""
    reader, gateway = _open(path, environ)
    keys, store = read_keys(reader, gateway, {}), read_key_store(reader, gateway)
    reader.problems.raise_any()
    return KeySettings(reader.problems.source, keys, store, gateway.get("key_pepper"))


def _open(path: str | os.PathLike[str], environ: Mapping[str, str] | None) -> tuple[TableReader, GatewayConfig]:
    """Read the top-level keys of a file. Raises `ConfigError` if it is not TOML."""
    file = Path(path)
    text = _read_text(file)
    reader = TableReader(Problems(str(file), text, [file]), os.environ if environ is None else environ, file.parent)
    return reader, reader.read(GatewayConfig, _parse(file, text), ()) or {}


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([Problem(str(file), "", f"cannot read the file: {error.strerror}")], [file]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(file), "", "invalid TOML: not UTF-8", line)], [file]) from None


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        line = re.search(r"at line (\d+)", str(error))
        message = f"invalid TOML: {_without_secrets(str(error))}"
        raise ConfigError([Problem(str(file), "", message, int(line[1]) if line else None)], [file]) from None


def _without_secrets(message: str) -> str:
    """The message of a syntax error without the keys in it that look like secrets."""
    return _QUOTED.sub(lambda quoted: "(not shown)" if looks_secret(quoted[0]) else quoted[0], message)


def _read_gateway(reader: TableReader, gateway: GatewayConfig, dimensions: Mapping[str, Dimension]) -> Settings:
    """Read all parts of a file. Raises `ConfigError` with every problem."""
    problems, known = reader.problems, gateway.get("providers", {})
    max_body, budget, per_principal = _read_sizes(problems, gateway)
    _check_required(problems, gateway)
    providers = [read_provider(reader, name, table) for name, table in known.items()]
    keys = read_keys(reader, gateway, dimensions)
    key_store = read_key_store(reader, gateway)
    issuers = read_issuers(reader, gateway, dimensions)
    throttle = read_throttle(reader, gateway)
    routes = read_routes(reader, gateway.get("routes", []), known)
    limits = read_limits(reader, gateway.get("limits", []), ("limits",), dimensions, own=False)
    fields = _read_fields(problems, gateway)
    store = _read_store(reader, gateway)
    problems.raise_any()
    return Settings(
        source=problems.source,
        providers=tuple(filter(None, providers)),
        keys=keys,
        key_store=key_store,
        key_pepper=gateway.get("key_pepper"),
        issuers=issuers,
        throttle=throttle,
        routes=routes or None,
        limits=limits,
        store=store,
        fields=fields,
        max_body=max_body,
        body_budget=budget,
        body_budget_per_principal=per_principal,
        access_log=gateway.get("access_log"),
        opentelemetry=gateway.get("opentelemetry"),
        route_header=gateway.get("route_header", False),
        tables=reader.tables,
        files=frozenset(problems.files),
        dimensions=dimensions,
    )


def _read_sizes(problems: Problems, gateway: GatewayConfig) -> tuple[int, int | None, int | None]:
    """The largest body, and the budgets of all bodies and of one principal's."""
    budgets = gateway.get("body_budget"), gateway.get("body_budget_per_principal")
    sizes = gateway.get("max_body", DEFAULT_MAX_BODY), *budgets
    try:
        body_budget(*sizes)
    except OptionError as error:
        problems.add_option((), error)
    return sizes


def _read_fields(problems: Problems, gateway: GatewayConfig) -> dict[str, Any]:
    fields = gateway.get("fields", {})
    for name, action in fields.items():
        try:
            FieldPolicy({name: action})
        except OptionError as error:
            problems.add(("fields", name), error.problem)
    return fields


def _check_required(problems: Problems, gateway: GatewayConfig) -> None:
    """Check that there are providers, callers and, with more than one provider, routes."""
    providers, anonymous = gateway.get("providers"), gateway.get("allow_anonymous")
    if not providers and not problems.within(("providers",)):
        problems.add(("providers",), "missing; expected at least one [providers.NAME] table")
    callers = {"keys": "[[keys]]", "key_store": "[key_store]", "issuers": "[[issuers]]"}
    given = next((shown for key, shown in callers.items() if gateway.get(key)), None)
    if given and anonymous:
        problems.add(("allow_anonymous",), f"cannot be combined with {given}")
    if "throttle" in gateway and anonymous and not given:
        problems.add(("throttle",), "meaningless with allow_anonymous: no authentication can fail")
    if not (given or anonymous or any(problems.within((key,)) for key in (*callers, "allow_anonymous"))):
        expected = "expected [[keys]] or [[issuers]] tables, a [key_store], or allow_anonymous = true to admit everyone"
        problems.add(("keys",), f"missing; {expected}")
    if len(providers or ()) > 1 and not gateway.get("routes") and not problems.within(("routes",)):
        problems.add(("routes",), "missing; with several providers, expected [[routes]] tables that assign models")


def _read_store(reader: TableReader, gateway: GatewayConfig) -> LimitStore | None:
    if "store" not in gateway:
        return None
    of_callers = "key_store" in gateway or any(
        map(_has_limits, [*gateway.get("keys", []), *gateway.get("issuers", [])])
    )
    return read_store(reader, gateway["store"], has_limits="limits" in gateway or of_callers)


def _has_limits(table: object) -> bool:
    """Whether the table of a key, or of an issuer's grant, has limits of its own."""
    grants = (as_table(table) or {}).get("grants")
    tables = [table, *cast("list[object]", grants)] if isinstance(grants, list) else [table]
    return any("limits" in (as_table(one) or {}) for one in tables)
