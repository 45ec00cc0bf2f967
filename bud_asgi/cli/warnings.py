"""Warnings about what is valid in a configuration, but dangerous or probably not intended."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from bud_asgi.cli.keys import state_of
from bud_asgi.cli.reachable import never_used, routes_of
from bud_asgi.clock import DEFAULT_TIMING
from bud_asgi.config import Problem, Problems, Settings, permission_warnings
from bud_asgi.options import name_shown, nearest, shown
from bud_asgi.protocol.patterns import compile_pattern, matches, matches_any
from bud_asgi.providers import Bedrock, Vertex

CLAUDE_CODE_MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2")
"""The models that Claude Code requests on its own, also for background tasks (release 2.1.331)."""

KeyPath = tuple[str | int, ...]

_AREAS = ("us", "eu", "ap", "sa", "ca", "me", "af", "il", "mx", "cn", "us-gov", "us-iso", "us-isob", "us-isof")
_COMPASS = ("north", "south", "east", "west", "central", "northeast", "northwest", "southeast", "southwest")
_AWS_REGION = re.compile(rf"(?:{'|'.join(_AREAS)}|eu-isoe|eusc-[a-z]{{2}})-(?:{'|'.join(_COMPASS)})-\d")
_GOOGLE_REGION = re.compile(
    rf"global|us|eu|(?:africa|asia|australia|europe|me|northamerica|southamerica|us)-(?:{'|'.join(_COMPASS)})\d{{1,2}}"
)
_AWS_EXAMPLES = [f"{area}-{compass}-{number}" for area, compass, number in product(_AREAS, _COMPASS, (1, 2))]
_GOOGLE_EXAMPLES = [
    "global",
    *(f"{area}-{compass}{number}" for area, compass, number in product(("us", "europe", "asia"), _COMPASS, (1, 2, 4))),
]


def warnings_of(settings: Settings) -> Sequence[Problem]:
    """Return the warnings about a configuration, each with its line if it is about a file."""
    found = problems_in(settings)
    for path, message in [*_of_keys(settings), *_of_models(settings), *_of_routes(settings), *_of_regions(settings)]:
        found.add(path, message)
    return [*permission_warnings(settings.source), *found.in_order()]


def problems_in(settings: Settings) -> Problems:
    """Make a collection of problems that finds their lines, if the configuration is a file."""
    file = Path(settings.source)
    return Problems(settings.source, file.read_bytes().decode("utf-8-sig") if file.is_file() else "")


def _of_models(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    models = tuple(route.model for route in routes_of(settings))
    if missing := [name for name in CLAUDE_CODE_MODELS if not matches_any(models, name)]:
        yield ("routes",), f"no route serves {', '.join(missing)}, which Claude Code also requests in the background"
    holders = [(("keys", number), key.models) for number, key in enumerate(settings.keys)]
    holders += [
        (("issuers", number, "grants", place), grant.models)
        for number, issuer in enumerate(settings.issuers)
        for place, grant in enumerate(issuer.grants)
    ]
    holders += [(("limits", number), limit.models) for number, limit in enumerate(settings.limits)]
    for path, patterns in holders:
        for pattern in patterns:
            if not any(_may_overlap(pattern, model) for model in models):
                yield (*path, "models"), f"no route serves {shown(name_shown(pattern))}{nearest(pattern, models)}"


def _of_keys(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    now = datetime.now(UTC)
    for number, key in enumerate(settings.keys):
        if state_of(key, now) == "expired":
            yield ("keys", number, "expires"), "has passed: the key is refused"


def _of_routes(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    for index, reason in never_used(settings):
        yield ("routes", index), f"never used: {reason}"
    longest = DEFAULT_TIMING.failover_within
    for index, route in enumerate(routes_of(settings)):
        if route.hedge is not None and route.hedge >= longest:
            yield ("routes", index, "hedge"), f"never happens: no call is added after {longest:.0f} seconds"


def _of_regions(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """Only the form of a region is checked: new ones are opened, and only its own host shows that one exists."""
    in_file = settings.source != "environment"
    for provider in settings.providers:
        if isinstance(provider, Bedrock):
            service, form, known, variable = "an AWS region", _AWS_REGION, _AWS_EXAMPLES, "AWS_REGION"
        elif isinstance(provider, Vertex):
            service, form, known, variable = "a Google region", _GOOGLE_REGION, _GOOGLE_EXAMPLES, "CLOUD_ML_REGION"
        else:
            continue
        if not form.fullmatch(provider.region):
            path: KeyPath = ("providers", provider.name, "region") if in_file else (variable,)
            region = provider.region
            yield path, f"{shown(name_shown(region))} does not look like {service}{nearest(region, known)}"


def _may_overlap(pattern: str, other: str) -> bool:
    """Whether a name can match both patterns; two patterns are compared only by what they begin and end with."""
    one, two = compile_pattern(pattern), compile_pattern(other)
    if one.last is None or two.last is None:
        return matches(other, pattern) if one.last is None else matches(pattern, other)
    begins = one.first.startswith(two.first) or two.first.startswith(one.first)
    return begins and (one.last.endswith(two.last) or two.last.endswith(one.last))
