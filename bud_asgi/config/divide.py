"""The limits of one of several processes that each count on their own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bud_asgi.auth import Issuer
from bud_asgi.config.lines import KeyPath
from bud_asgi.config.problems import ConfigError, Problem, render
from bud_asgi.config.settings import Settings
from bud_asgi.limit import Limit


def divide_limits(settings: Settings, processes: int) -> Settings:
    """Divide the amounts of all limits by the number of processes, rounding down.

    Raises `ConfigError` with every amount that is smaller than that number, and for a store, which all processes share.
    """
    if settings.store is not None:
        message = "counts the limits of all workers together; remove --per-worker-limits, which would divide them"
        raise ConfigError([Problem(settings.source, "store", message)])
    problems = list(_too_small(settings, settings.limits, ("limits",), processes))
    for index, key in enumerate(settings.keys):
        problems += _too_small(settings, key.limits, ("keys", index, "limits"), processes)
    for index, issuer in enumerate(settings.issuers):
        for role, grant in enumerate(issuer.grants):
            problems += _too_small(settings, grant.limits, ("issuers", index, "grants", role, "limits"), processes)
    if problems:
        raise ConfigError(problems)
    keys = [msgspec.structs.replace(key, limits=_divided(key.limits, processes)) for key in settings.keys]
    issuers = [_divided_issuer(issuer, processes) for issuer in settings.issuers]
    limits = _divided(settings.limits, processes)
    return msgspec.structs.replace(settings, limits=limits, keys=tuple(keys), issuers=tuple(issuers))


def _divided_issuer(issuer: Issuer, processes: int) -> Issuer:
    grants = [msgspec.structs.replace(grant, limits=_divided(grant.limits, processes)) for grant in issuer.grants]
    return msgspec.structs.replace(issuer, grants=tuple(grants))


def _divided(limits: Sequence[Limit], processes: int) -> tuple[Limit, ...]:
    return tuple(msgspec.structs.replace(limit, amount=limit.amount // processes) for limit in limits)


def _too_small(settings: Settings, limits: Sequence[Limit], path: KeyPath, processes: int) -> list[Problem]:
    expected = f"expected at least {processes}, fewer workers, or a [store], which all workers share"
    return [
        Problem(
            settings.source,
            render((*path, index, limit.kind)),
            f"{limit.amount} cannot be divided among {processes} workers; {expected}",
        )
        for index, limit in enumerate(limits)
        if limit.amount < processes
    ]
