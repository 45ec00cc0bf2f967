"""Reading of the providers' tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bud_asgi.config.durations import read_timeouts
from bud_asgi.config.lines import KeyPath
from bud_asgi.config.provider_tables import AnthropicConfig, BedrockConfig, GuardrailConfig, VertexConfig
from bud_asgi.config.reading import TableReader, as_table, toml_shown
from bud_asgi.config.settings import ConfiguredProvider
from bud_asgi.options import OptionError, check_choice
from bud_asgi.providers import Anthropic, Bedrock, Vertex

KINDS: Mapping[str, tuple[type[Any], Callable[..., ConfiguredProvider], Mapping[str, Any]]] = {
    "anthropic": (AnthropicConfig, Anthropic, {}),
    "bedrock": (BedrockConfig, Bedrock, {"region": "us-east-1"}),
    "vertex": (VertexConfig, Vertex, {"project": "project"}),
}
"""For each kind its table, its provider, and a valid value for each option that is required."""


def read_provider(reader: TableReader, name: str, table: object) -> ConfiguredProvider | None:
    """Read a provider's table; `None`, with the problems noted, if it cannot be made."""
    path, given = ("providers", name), as_table(table)
    if given is None:
        reader.problems.add(path, f"expected a table, got {toml_shown(table)}")
        return None
    try:
        check_choice("kind", given.get("kind"), tuple(KINDS))
    except OptionError as error:
        reader.problems.add_option(path, error)
        return None
    config, provider, required = KINDS[str(given["kind"])]
    options: dict[str, Any] = reader.read(config, given, path) or {}
    options.pop("kind", None)
    _convert(reader, options, path)
    made = reader.make(config, provider, {"name": name, **options}, path, required)
    if isinstance(file := options.get("service_account_file"), Path):
        reader.problems.files.add(file)
        reader.tables[path] = {**options, "service_account_file": (file, _digest(file))}
    return made


def _digest(file: Path) -> bytes:
    """What the content of a file is compared by; empty if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return b""


def _convert(reader: TableReader, options: dict[str, Any], path: KeyPath) -> None:
    """Turn what TOML writes as a table or as a relative path into the constructor's form."""
    if "timeouts" in options:
        options["timeouts"] = read_timeouts(reader, options["timeouts"], (*path, "timeouts"))
    if "guardrail" in options:
        options["guardrail"] = _guardrail(reader, options["guardrail"], (*path, "guardrail"))
    if isinstance(file := options.get("service_account_file"), str) and not file.startswith(("env:", "file:", "{")):
        options["service_account_file"] = reader.folder / file


def _guardrail(reader: TableReader, table: object, path: KeyPath) -> tuple[object, object] | None:
    guardrail = reader.read(GuardrailConfig, table, path) or {}
    for key in GuardrailConfig.__annotations__:
        if key not in guardrail and not reader.problems.at(path):
            reader.problems.add((*path, key), "missing")
    if reader.problems.within(path):
        return None
    version = guardrail.get("version")
    is_number = isinstance(version, int) and not isinstance(version, bool)
    return guardrail.get("id"), str(version) if is_number else version
