"""The tables of keys in docs/configuration.md are those of the code, and the defaults in them are true."""

from __future__ import annotations

import inspect
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

from bud_asgi import Anthropic, Bedrock, Limit, RedisStore, Route, Target, Vertex
from bud_asgi.auth import Issuer, SqlKeyStore, Throttle
from bud_asgi.config import Settings, caller_tables, in_seconds, provider_tables, tables

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
TABLES: dict[str, Any] = {
    name: kind
    for module in (tables, caller_tables, provider_tables)
    for name, kind in vars(module).items()
    if name.endswith("Config")
}
IN_EVERY_PROVIDER = {"kind", "timeouts", "allow_betas", "drop_betas", "drop_fields"}
MADE: dict[str, Any] = {
    "AnthropicConfig": Anthropic,
    "BedrockConfig": Bedrock,
    "VertexConfig": Vertex,
    "RouteConfig": Route,
    "TargetConfig": Target,
    "LimitConfig": Limit,
    "StoreConfig": RedisStore,
    "KeyStoreConfig": SqlKeyStore,
    "IssuerConfig": Issuer,
    "ThrottleConfig": Throttle,
    "GatewayConfig": Settings,
}
"""What is made of each table."""

BY_DEFAULT = {
    ("GatewayConfig", "opentelemetry"): False,
    ("LimitConfig", "window"): Limit("requests", 1).window,
    ("RouteConfig", "balance"): Route("*", to=[["a", "b"]]).balance,
}
"""What constructors choose where nothing is given."""


def test_the_page_is_as_generated(reference: ModuleType) -> None:
    assert reference.generated(PAGE) == PAGE, "run `make reference`"


def test_every_key_is_documented() -> None:
    for name, kind in TABLES.items():
        for key in get_type_hints(kind):
            assert re.search(rf"`[^`]*\b{key}\b[^`]*`", PAGE), (name, key)


def test_every_key_of_a_provider_is_in_its_table(reference: ModuleType) -> None:
    documented = reference.documented()
    for name in (
        "BedrockConfig",
        "VertexConfig",
        "RouteConfig",
        "TargetConfig",
        "LimitConfig",
        "KeyConfig",
        "StoreConfig",
    ):
        keys = set(get_type_hints(TABLES[name]))
        assert keys - set(documented[name]) <= IN_EVERY_PROVIDER, name


def defaults() -> list[tuple[str, str, object]]:
    """The documented defaults that are values, and not words or names of other keys."""
    rows = re.findall(r"<!-- keys of (\w+)[^\n]*\n((?:\|[^\n]*\n)+)", PAGE)
    found: list[tuple[str, str, object]] = []
    for name, table in rows:
        for key, value in re.findall(r"^\| `(\w+)` \| .* \| `([^`]*)` \|$", table, re.MULTILINE):
            with suppress(tomllib.TOMLDecodeError):
                found.append((name, key, tomllib.loads(f"x = {value}")["x"]))
    return found


@pytest.mark.parametrize(("name", "key", "value"), defaults(), ids=str)
def test_a_default_is_that_of_the_constructor(name: str, key: str, value: object) -> None:
    parameters = inspect.signature(MADE[name]).parameters if name in MADE else {}
    if key not in parameters:
        return  # one that the reader of the file translates
    default = BY_DEFAULT.get((name, key), parameters[key].default)
    if value != ["*"] or default is not None:  # everything
        assert (list(default) if isinstance(default, tuple) else default) == _in_code(key, value)


def _in_code(key: str, value: object) -> object:
    is_duration = key in {"timeout", "window", "wait", "leeway", "hedge"} and isinstance(value, str)
    return in_seconds(key, value) if is_duration else value


def test_there_are_enough_defaults() -> None:
    assert len(defaults()) > 20
