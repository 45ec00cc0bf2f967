"""Read the issuers of tokens, and how often an address may fail to authenticate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bud_asgi.auth import Grant, Issuer, Throttle
from bud_asgi.config.caller_tables import GrantConfig, IssuerConfig, ThrottleConfig
from bud_asgi.config.durations import in_seconds
from bud_asgi.config.limits import read_limits
from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import render
from bud_asgi.config.reading import TableReader
from bud_asgi.config.tables import GatewayConfig
from bud_asgi.extras import MissingExtra, require
from bud_asgi.limit import Dimension
from bud_asgi.options import duplicates


def read_issuers(
    reader: TableReader, gateway: GatewayConfig, dimensions: Mapping[str, Dimension]
) -> tuple[Issuer, ...]:
    """Read the list of issuers; those with problems, which are noted, are left out."""
    tables = gateway.get("issuers", [])
    if tables:
        _check_extra(reader)
    issuers = [_read_issuer(reader, table, ("issuers", index), dimensions) for index, table in enumerate(tables)]
    for field in ("url", "prefix"):  # those with one URL have one prefix by default
        values = (object() if issuer is None else getattr(issuer, field) for issuer in issuers)
        for index, first in duplicates(values):
            if not reader.problems.within(("issuers", index)):
                same = f"duplicate {field}, already used by {render(('issuers', first))}"
                reader.problems.add(("issuers", index, field), same)
    return tuple(filter(None, issuers))


def _check_extra(reader: TableReader) -> None:
    try:
        require("[[issuers]]", "joserfc", "jwt")
    except MissingExtra as error:
        reader.problems.add(("issuers",), str(error))


def read_throttle(reader: TableReader, gateway: GatewayConfig) -> Throttle | None:
    """Read the table of the throttle; `None` if there is none, or it has problems, which are noted."""
    path: KeyPath = ("throttle",)
    read = reader.read(ThrottleConfig, gateway["throttle"], path) if "throttle" in gateway else None
    return None if read is None else reader.make(ThrottleConfig, _throttle, read, path, {})


def _throttle(**options: Any) -> Throttle:
    if "window" in options:
        options["window"] = in_seconds("window", options["window"])
    return Throttle(**options)


def _read_issuer(
    reader: TableReader, table: object, path: KeyPath, dimensions: Mapping[str, Dimension]
) -> Issuer | None:
    read = reader.read(IssuerConfig, table, path)
    if read is None:
        return None
    options: dict[str, Any] = {**read}
    if "grants" in read:
        grants = enumerate(read["grants"])
        made = [_read_grant(reader, grant, (*path, "grants", index), dimensions) for index, grant in grants]
        options["grants"] = [grant or Grant(role="-") for grant in made]
    required = {"url": "https://issuer.example", "audience": "audience"}
    return reader.make(IssuerConfig, _issuer, options, path, required)


def _issuer(**options: Any) -> Issuer:
    if "leeway" in options:
        options["leeway"] = in_seconds("leeway", options["leeway"])
    return Issuer(**options)


def _read_grant(reader: TableReader, table: object, path: KeyPath, dimensions: Mapping[str, Dimension]) -> Grant | None:
    read = reader.read(GrantConfig, table, path)
    if read is None:
        return None
    limits = read_limits(reader, read.get("limits", []), (*path, "limits"), dimensions, own=True)
    return reader.make(GrantConfig, Grant, {**read, "limits": limits}, path, {"role": "-"})
