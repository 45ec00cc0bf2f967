"""What the tables of a file may hold; those of providers are in `provider_tables`.

The words of each `description` are what an error says is allowed. What is absent has the default of the object that it
becomes; an empty string stands for an absent one only here, as a default: in a file it is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bud_asgi.protocol.body import DEFAULT_MAX_BODY

NOT_SHOWN = {"shown": False}
"""Marks a field that a secret may have been pasted into: an error never shows its value."""

HASH_PATTERN = r"\Asha256:[0-9a-f]{64}\Z"
"""The form in which a key is kept."""

Name = Annotated[str, Meta(min_length=1, description="a string that is not empty")]
Models = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...],
    Meta(min_length=1, description='a list of model names or patterns with *, such as ["claude-haiku-*"]'),
]


class Gateway(msgspec.Struct, frozen=True):
    """The whole file. What its tables hold is read table by table, so that every error in it is found."""

    providers: Annotated[
        dict[str, Any], Meta(min_length=1, description="at least one table of a provider, [providers.NAME]")
    ] = {}
    keys: Annotated[
        list[Any], Meta(min_length=1, description="at least one [[keys]] table, or allow_anonymous = true in its place")
    ] = []
    allow_anonymous: Annotated[bool, Meta(description="true or false")] = False
    routes: Annotated[
        list[Any], Meta(min_length=1, description="at least one [[routes]] table, or with one provider none at all")
    ] = []
    limits: Annotated[list[Any], Meta(min_length=1, description="at least one [[limits]] table, or none at all")] = []
    max_body: Annotated[int, Meta(gt=0, le=1 << 40, description="a number of bytes, more than 0")] = DEFAULT_MAX_BODY
    access_log: Annotated[bool | None, Meta(description="true or false")] = None


class KeyTable(msgspec.Struct, frozen=True):
    """One caller's key, as it is kept."""

    name: Name
    hash: Annotated[
        str,
        Meta(
            pattern=HASH_PATTERN,
            description="sha256: and 64 lower-case hex digits, as `bud-asgi keys new NAME` writes it",
            extra=NOT_SHOWN,
        ),
    ]
    team: Name = ""
    models: Models = ("*",)


class LimitTable(msgspec.Struct, frozen=True):
    """At most so many requests in a window."""

    requests: Annotated[int, Meta(gt=0, le=1 << 53, description="a whole number of requests, at least 1")]
    window: Annotated[
        Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,5}[smh]\Z")] | Annotated[float, Meta(gt=0, le=1e9)],
        Meta(description='a duration such as "30s", "1m" or "1h", or a number of seconds'),
    ] = 60.0
    per: Annotated[Literal["principal", "all"], Meta(description='"principal" or "all"')] = "principal"


class RouteTable(msgspec.Struct, frozen=True):
    """A model name or pattern, and where it goes."""

    model: Annotated[str, Meta(min_length=1, description='a model name or a pattern with *, such as "claude-*"')]
    to: Annotated[
        list[Any],
        Meta(
            min_length=1,
            description='a list of targets, each a provider\'s name or { provider = "NAME", model = "UPSTREAM MODEL" }',
        ),
    ]


class TargetTable(msgspec.Struct, frozen=True):
    """A provider that is asked for another model than the client asked for."""

    provider: Name
    model: Name
