"""Which inference profile a model is called through in an AWS region: read from the dated `bedrock_profiles.json`.

Vendor pages "Supported Regions and models for inference profiles", "Claude on Amazon Bedrock".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files

import msgspec

from bud_asgi.providers.compat.model_ids import claude_name, line


class ProfileTable(msgspec.Struct, frozen=True):
    """The inference profiles by their prefixes, as of the date `as_of`. An empty prefix stands for the base id.

    `regions` are the profiles to choose from, the preferred one first, by the start of the region's name; the longest
    start counts. `models` are the profiles of each model, by its base id, the newest of a line first.
    """

    as_of: str
    regions: Mapping[str, tuple[str, ...]]
    models: Mapping[str, tuple[str, ...]]


@cache
def profile_table() -> ProfileTable:
    """Load the table; it is read once."""
    path = files("bud_asgi") / "data" / "bedrock_profiles.json"
    return msgspec.json.decode(path.read_bytes(), type=ProfileTable)


@lru_cache(maxsize=1024)
def profile_of(base_id: str, region: str) -> str | None:
    """Return the prefix of the profile for a model in a region, empty for the base id; `None` if there is none.

    It is that of the region's geography if the model has one, otherwise the global one. A model that is not in the
    table is assumed to have the profiles of the newest one of its line, or all if the line is new. Where the table has
    no profiles for a region, as in China, the base id is called.
    """
    table = profile_table()
    start = max((start for start in table.regions if region.startswith(start)), key=len)
    wanted = table.regions[start]
    existing = table.models.get(base_id) or _profiles_of_line(line(claude_name(base_id)))
    if existing is None or not wanted:
        return next(iter(wanted), "")
    return next((prefix for prefix in (*wanted, "") if prefix in existing), None)


def _profiles_of_line(name: str | None) -> tuple[str, ...] | None:
    models = profile_table().models
    return next((models[known] for known in models if name is not None and line(claude_name(known)) == name), None)
