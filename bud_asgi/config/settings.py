"""The result of reading a configuration, and the app made from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
from starlette.authentication import AuthenticationBackend

from bud_asgi.app import MessagesApp
from bud_asgi.auth import Anonymous, ApiKey, ApiKeys, FirstOf, Issuer, Jwt, SqlKeyStore, Throttle, check_issuers
from bud_asgi.budget import body_budget
from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import ConfigError, Problem
from bud_asgi.field_policy import FieldPolicy
from bud_asgi.limit import Dimension
from bud_asgi.limits import Limit, LimitStore, check_limits, check_store
from bud_asgi.observer import Observer
from bud_asgi.options import check_flag, check_function, check_items, check_name, check_type
from bud_asgi.parts import Changes
from bud_asgi.protocol.account_fields import Action
from bud_asgi.protocol.body import DEFAULT_MAX_BODY
from bud_asgi.providers import Anthropic, Bedrock, Vertex, check_provider
from bud_asgi.routing import Route, RouteTable
from bud_asgi.secret import Secret

ConfiguredProvider = Anthropic | Bedrock | Vertex
"""The providers that a configuration can contain."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration, valid and with its secrets resolved.

    `source` is the file, or `environment`. Without `keys`, a `key_store` and `issuers` everyone is admitted.
    `key_pepper` is the one that keys were hashed with, `throttle` limits failures to authenticate. Without `routes`
    every model goes to the one provider. `store` counts the limits, by default in the process's memory. `fields` is the
    app's `field_policy`. `max_body` and the budgets are in bytes. `opentelemetry` adds the observer of that name. A
    budget, `access_log` or `opentelemetry` is `None` if it was not set.
    `files` are those that it was read from, `tables` what was read there, by key path, with the secrets, and
    `dimensions` the functions that `per` can name. Raises `OptionError`.
    """

    source: str
    providers: tuple[ConfiguredProvider, ...]
    keys: tuple[ApiKey, ...] = ()
    key_store: SqlKeyStore | None = None
    key_pepper: Secret | None = None
    issuers: tuple[Issuer, ...] = ()
    throttle: Throttle | None = None
    routes: tuple[Route, ...] | None = None
    limits: tuple[Limit, ...] = ()
    store: LimitStore | None = None
    fields: Mapping[str, Action] = {}
    max_body: int = DEFAULT_MAX_BODY
    body_budget: int | None = None
    body_budget_per_principal: int | None = None
    access_log: bool | None = None
    opentelemetry: bool | None = None
    route_header: bool = False
    tables: Mapping[KeyPath, Mapping[str, object]] = {}
    files: frozenset[Path] = frozenset()
    dimensions: Mapping[str, Dimension] = {}

    def __post_init__(self) -> None:
        """Check each value on its own; the app checks whether they fit together."""
        check_name("source", self.source)
        check_items("providers", self.providers, "a list of providers", check_provider)
        if self.key_store is not None:
            check_type("key_store", self.key_store, SqlKeyStore, "a SqlKeyStore")
        if self.key_pepper is not None:
            check_type("key_pepper", self.key_pepper, Secret, "a Secret")
        self._api_keys()
        if self.issuers:
            check_issuers("issuers", self.issuers)
        if self.throttle is not None:
            check_type("throttle", self.throttle, Throttle, "a Throttle")
        if self.routes is not None:
            RouteTable(self.routes)
        check_limits(self.limits)
        if self.store is not None:
            check_store(self.store)
        FieldPolicy(self.fields, "fields")
        body_budget(self.max_body, self.body_budget, self.body_budget_per_principal)
        flags = {"access_log": self.access_log, "opentelemetry": self.opentelemetry, "route_header": self.route_header}
        for name, flag in flags.items():
            if flag is not None:
                check_flag(name, flag)
        check_type("files", self.files, frozenset, "a frozenset of paths")
        _check_read(self.tables, self.dimensions)

    @property
    def has_limits(self) -> bool:
        """Whether there are limits, general ones or of a key or a role."""
        grants = (grant for issuer in self.issuers for grant in issuer.grants)
        return bool(self.limits) or any(caller.limits for caller in (*self.keys, *grants))

    def _api_keys(self) -> ApiKeys:
        return ApiKeys(self.keys, store=self.key_store, pepper=self.key_pepper)

    def _auth(self) -> FirstOf:
        """The backends for the callers of the configuration."""
        backends: list[AuthenticationBackend] = []
        if self.keys or self.key_store:
            backends.append(self._api_keys())
        if self.issuers:
            backends.append(Jwt(self.issuers))
        return FirstOf(backends or [Anonymous()], throttle=self.throttle)

    def _observers(self) -> list[Observer]:
        if not self.opentelemetry:
            return []
        from bud_asgi.telemetry.opentelemetry import OpenTelemetry  # noqa: PLC0415 - its import takes a while

        return [OpenTelemetry()]

    def app(self) -> MessagesApp:
        """Make the app. Raises `ConfigError` for problems that only the app itself can find."""
        try:
            messages = MessagesApp(**self.options(), observers=self._observers())
        except ValueError as error:
            raise unfit(self, error) from error
        messages.source = self
        return messages

    def options(self) -> Changes:
        """The options of the app: those that can also be changed while it runs."""
        return {
            "auth": self._auth(),
            "providers": self.providers,
            "routes": self.routes,
            "limits": self.limits,
            "store": self.store,
            "field_policy": self.fields,
            "max_body": self.max_body,
            "body_budget": self.body_budget,
            "body_budget_per_principal": self.body_budget_per_principal,
            "access_log": bool(self.access_log),
            "route_header": self.route_header,
        }


def _check_read(tables: object, dimensions: object) -> None:
    expected = "a mapping of key paths to tables"
    check_type("tables", tables, Mapping, expected)
    for path, table in cast("Mapping[object, object]", tables).items():
        check_type("tables", path, tuple, expected)
        check_type("tables", table, Mapping, expected)
    expected = "a mapping of names to functions of the Exchange"
    check_type("dimensions", dimensions, Mapping, expected)
    for name, dimension in cast("Mapping[object, object]", dimensions).items():
        check_name("dimensions", name)
        check_function("dimensions", dimension, expected, None)


def unfit(settings: Settings, error: ValueError) -> ConfigError:
    """What the app refuses, as a problem of its configuration."""
    return ConfigError([Problem(settings.source, "", str(error))], settings.files)
