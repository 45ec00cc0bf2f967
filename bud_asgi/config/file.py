"""A TOML file into `Settings`, with every error in one go."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bud_asgi.auth import ApiKey
from bud_asgi.config.problems import Problems, listed, nearest, shown
from bud_asgi.config.providers import ProviderReader
from bud_asgi.config.reading import as_table, read_table, refuse_repeated
from bud_asgi.config.references import References
from bud_asgi.config.settings import Settings
from bud_asgi.config.tables import Gateway, KeyTable, LimitTable, RouteTable, TargetTable
from bud_asgi.exchange import Target
from bud_asgi.limits import Limit
from bud_asgi.routing import Route

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def read_file(path: str | os.PathLike[str], *, environ: Mapping[str, str] = os.environ) -> Settings:
    """What a file says, its secrets looked up in `environ` and in files beside it. Raises `ConfigError`."""
    file = Path(path)
    problems = Problems(str(file))
    tables = _parse(file, problems)
    problems.raise_any()
    gateway = read_table(Gateway, tables, "", problems) or Gateway()
    settings = _Reader(gateway, problems, References(environ, file.parent)).read()
    problems.raise_any()
    return settings


def _parse(file: Path, problems: Problems) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        problems.add("", f"can't be read: {error.strerror}")
    except UnicodeDecodeError as error:
        lines = error.object[: error.start].split(b"\n")
        problems.add("", f"is not TOML: not UTF-8 (at line {len(lines)}, column {len(lines[-1]) + 1})")
    except (ValueError, RecursionError) as error:
        problems.add("", f"is not TOML: {error}")
    return {}


class _Reader:
    """Reads the parts of a file, each by itself; what is wrong is noted, and left out."""

    def __init__(self, gateway: Gateway, problems: Problems, references: References) -> None:
        self._gateway = gateway
        self._problems = problems
        self._references = references

    def read(self) -> Settings:
        gateway = self._gateway
        self._require_providers()
        reader = ProviderReader(self._problems, self._references, keyed=bool(gateway.keys))
        providers = [reader.read(name, table) for name, table in gateway.providers.items()]
        self._require_authentication()
        keys = [self._key(index, table) for index, table in enumerate(gateway.keys)]
        refuse_repeated(gateway.keys, "name", "keys", self._problems)
        refuse_repeated(gateway.keys, "hash", "keys", self._problems)
        self._require_routes()
        routes = [self._route(index, table) for index, table in enumerate(gateway.routes)]
        refuse_repeated(gateway.routes, "model", "routes", self._problems)
        limits = [self._limit(index, table) for index, table in enumerate(gateway.limits)]
        self._refuse_equal_limits(limits)
        return Settings(
            source=self._problems.source,
            providers=tuple(provider for provider in providers if provider),
            keys=tuple(key for key in keys if key),
            routes=tuple(route for route in routes if route) if routes else None,
            limits=tuple(limit for limit in limits if limit),
            max_body=gateway.max_body,
            access_log=gateway.access_log,
        )

    def _require_providers(self) -> None:
        if not self._gateway.providers and not self._problems.at("providers"):
            self._problems.mismatch("providers", "nothing", "at least one table of a provider, [providers.NAME]")

    def _require_authentication(self) -> None:
        keys, anonymous = self._gateway.keys, self._gateway.allow_anonymous
        if keys and anonymous:
            self._problems.add("allow_anonymous", "found true beside [[keys]]; allowed is one of the two")
        elif not keys and not anonymous and not self._problems.at("keys") and not self._problems.at("allow_anonymous"):
            allowed = "at least one [[keys]] table, or allow_anonymous = true to let everybody in"
            self._problems.mismatch("keys", "nothing", allowed)

    def _require_routes(self) -> None:
        if len(self._gateway.providers) > 1 and not self._gateway.routes and not self._problems.at("routes"):
            self._problems.mismatch("routes", "nothing", "a [[routes]] table for what goes to which of the providers")

    def _key(self, index: int, table: object) -> ApiKey | None:
        read = read_table(KeyTable, table, f"keys[{index}]", self._problems)
        return read and ApiKey(name=read.name, hash=read.hash, team=read.team or None, models=read.models)

    def _limit(self, index: int, table: object) -> Limit | None:
        read = read_table(LimitTable, table, f"limits[{index}]", self._problems)
        return read and Limit("requests", read.requests, _seconds(read.window), read.per)

    def _refuse_equal_limits(self, limits: list[Limit | None]) -> None:
        for index, limit in enumerate(limits):
            if limit and (first := limits.index(limit)) != index:
                self._problems.add(f"limits[{index}]", f"says the same as limits[{first}]")

    def _route(self, index: int, table: object) -> Route | None:
        path = f"routes[{index}]"
        read = read_table(RouteTable, table, path, self._problems)
        if read is None:
            return None
        targets = [self._target(target, f"{path}.to[{place}]") for place, target in enumerate(read.to)]
        found = [target for target in targets if target]
        return Route(read.model, found) if found else None

    def _target(self, target: object, path: str) -> str | Target | None:
        if isinstance(target, str):
            self._require_provider(target, path)
            return target
        if as_table(target) is None:
            allowed = "a provider's name or a table of provider and model"
            self._problems.mismatch(path, shown(target), allowed)
            return None
        read = read_table(TargetTable, target, path, self._problems)
        if read is None:
            return None
        self._require_provider(read.provider, f"{path}.provider")
        return Target(read.provider, read.model)

    def _require_provider(self, name: str, path: str) -> None:
        known = self._gateway.providers
        if name not in known and known:
            allowed = listed(map(shown, known))
            self._problems.add(
                path, f"found {shown(name)}, which is no provider{nearest(name, known)}; allowed are {allowed}"
            )


def _seconds(window: str | float) -> float:
    return int(window[:-1]) * _SECONDS[window[-1]] if isinstance(window, str) else window
