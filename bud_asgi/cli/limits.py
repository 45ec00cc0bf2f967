"""How much of the limits is used, read from the store."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from math import ceil

import click

from bud_asgi.app import MessagesApp
from bud_asgi.cli.keys import all_callers, caller_named
from bud_asgi.cli.tables import applies_to, table
from bud_asgi.cli.terminal import Progress, columns, log_as_problems
from bud_asgi.config import ConfigError, Problem, Settings
from bud_asgi.exchange import Principal
from bud_asgi.limit import Limit, limit_words
from bud_asgi.limits import Standing, StoreUnavailable
from bud_asgi.limits.answers import rfc3339

PAUSES = (0.2, 1.0)
"""Seconds before further attempts to reach the store."""

_HEAD = ("KEY", "LIMIT", "FOR", "USED", "RESERVED", "REMAINING", "FULL AGAIN AT")

Standings = Sequence[tuple[Principal, Sequence[Standing]]]
"""For each caller, the standing of its limits."""


def show_limits(settings: Settings, name: str | None, model: str | None, *, as_json: bool) -> None:
    """Write the standing of one key, or of all, to stdout.

    Raises `ConfigError` for settings without a store, `click.BadParameter` for an unknown name, and `StoreUnavailable`.
    """
    if settings.store is None:
        message = "missing; without it limits are counted in the memory of the server, which this command cannot read"
        raise ConfigError([Problem(settings.source, "store", message)])
    callers = _callers(settings, name)
    with Progress("waiting for the store"), log_as_problems(shown=False):  # a failure of the store is raised, too
        standings = asyncio.run(_read(settings.app(), callers, model))
    click.echo(_json(standings) if as_json else _table(standings))


def _callers(settings: Settings, name: str | None) -> Sequence[Principal]:
    if name is not None:
        return [caller_named(settings, name)]
    callers = all_callers(settings)
    if not callers:
        raise click.BadParameter("no keys are configured")
    return callers


async def _read(messages: MessagesApp, callers: Sequence[Principal], model: str | None) -> Standings:
    try:
        await _connect(messages, callers[0])
        return [(caller, await messages.limits.standing(caller, model=model)) for caller in callers]
    finally:
        await messages.limits.aclose()


async def _connect(messages: MessagesApp, caller: Principal) -> None:
    """Wait for the connection, which may take longer than a request would wait for the store."""
    for pause in PAUSES:
        try:
            await messages.limits.standing(caller)
        except StoreUnavailable:
            await asyncio.sleep(pause)
        else:
            return


def _table(standings: Standings) -> str:
    rows = [
        (
            caller.id,
            limit_words(one.limit),
            _whose(caller, one.limit),
            f"{one.used:,}",
            f"{one.reserved:,}",
            f"{one.remaining:,}",
            rfc3339(ceil(one.full_at)).decode() if one.full_at else "-",
        )
        for caller, limits in standings
        for one in limits
    ]
    return table(_HEAD, rows, columns(sys.stdout)) if rows else "No limits apply."


def _whose(caller: Principal, limit: Limit) -> str:
    return applies_to(limit, f"key {caller.id}" if limit in caller.limits else None)


def _json(standings: Standings) -> str:
    lines = [
        {
            "key": caller.id,
            "limit": limit_words(one.limit),
            "kind": one.limit.kind,
            "amount": one.limit.amount,
            "window": one.limit.window,
            "for": _whose(caller, one.limit),
            "used": one.used,
            "reserved": one.reserved,
            "remaining": one.remaining,
            "full_at": one.full_at,
        }
        for caller, limits in standings
        for one in limits
    ]
    return json.dumps(lines, indent=2, ensure_ascii=False)
