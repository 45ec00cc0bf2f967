"""A TOML file into `Settings`, with every error in one go."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bud_asgi.auth import ApiKey
from bud_asgi.config.problems import Problems, joined, listed, nearest, shown
from bud_asgi.config.reading import as_table, read_table, refuse_repeated
from bud_asgi.config.references import References
from bud_asgi.config.settings import Settings
from bud_asgi.config.tables import (
    KINDS,
    LATER_KINDS,
    AnthropicTable,
    Gateway,
    KeyTable,
    LimitTable,
    RouteTable,
    TargetTable,
    TimeoutsTable,
)
from bud_asgi.exchange import Target
from bud_asgi.http import Timeouts
from bud_asgi.limits import Limit
from bud_asgi.providers import Anthropic
from bud_asgi.providers.anthropic import BASE_URL
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
        providers = [self._provider(name, table) for name, table in gateway.providers.items()]
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

    def _provider(self, name: str, table: object) -> Anthropic | None:
        path, before = joined("providers", name), len(self._problems)
        if self._unknown_kind(table, path):
            return None
        read = read_table(AnthropicTable, table, path, self._problems)
        if read is None:
            return None
        timeouts = read_table(TimeoutsTable, read.timeouts, f"{path}.timeouts", self._problems) or TimeoutsTable()
        api_key = read.api_key and self._references.resolve(read.api_key, f"{path}.api_key", self._problems)
        if read.auth == "client":
            self._require_no_key_of_ours(read, path)
        elif not read.api_key and read.base_url == BASE_URL and not self._problems.at(f"{path}.api_key"):
            self._problems.mismatch(f"{path}.api_key", "nothing", "a reference to the secret, env:NAME or file:PATH")
        wrong = len(self._problems) > before
        try:
            provider = Anthropic(
                name=name,
                api_key=api_key or ("unresolved" if wrong else None),  # built all the same, to judge its URL as well
                base_url=read.base_url,
                auth="x-api-key" if wrong else read.auth,
                timeouts=Timeouts(timeouts.connect, timeouts.first_byte, timeouts.silence),
                trace_context=read.trace_context,
            )
        except ValueError as error:
            self._problems.add(f"{path}.base_url" if name else path, str(error))
            return None
        return None if wrong else provider

    def _require_no_key_of_ours(self, read: AnthropicTable, path: str) -> None:
        """Where the client's own credential is passed through, neither the gateway's nor its callers' keys can be."""
        if read.api_key:
            self._problems.add(f"{path}.api_key", 'found one beside auth = "client"; allowed is one of the two')
        if self._gateway.keys:
            self._problems.add(f"{path}.auth", 'found "client" beside [[keys]], which would be handed to that upstream')

    def _unknown_kind(self, table: object, path: str) -> bool:
        """Of a provider of another kind, nothing else can be judged."""
        kind = (as_table(table) or {}).get("kind")
        if not isinstance(kind, str) or kind in KINDS:
            return False
        later = ", which is not in this version" if kind in LATER_KINDS else ""
        self._problems.mismatch(f"{path}.kind", shown(kind) + later, listed(map(shown, KINDS)))
        return True

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
