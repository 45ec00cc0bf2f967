"""The tables of a configuration file for callers: keys, tokens, and how often they may fail (`tables` has the rest)."""

from __future__ import annotations

from typing import Any, TypedDict


class KeyConfig(TypedDict, total=False):
    """The API key of a caller, as its hash."""

    name: str
    """The caller's name in limits and logs; unique.

    Required.
    """
    hash: str
    """`sha256:` and 64 hex digits, or `hmac-sha256:` for a key that was made with the [pepper](keys.md#pepper); never
    the key itself.

    Required.
    """
    owner: str
    """Who is responsible for the key; in the metadata of the principal.

    Default: none
    """
    team: str
    """The caller's team.

    Default: none
    """
    models: list[str]
    """The model names and patterns with `*` that the caller may request.

    Default: `["*"]`
    """
    limits: list[Any]
    """A list of [limits](#limits-rate-limits) of its own.

    Default: the general limits
    """
    metadata: dict[str, Any]
    """A table of strings for your own use, in the metadata of the principal.

    Default: none
    """
    expires: object
    """The time from which on the key is refused, with an offset: `2027-01-31T00:00:00Z`.

    Default: never
    """
    enabled: bool
    """`false` refuses the key.

    Default: `true`
    """
    previous_hash: str
    """The hash of the key that this one replaces.

    Default: none
    """
    previous_until: object
    """The time until which the previous key is accepted.

    Default: none
    """


class KeyStoreConfig(TypedDict, total=False):
    """Where further keys are looked up."""

    url: object
    """`sqlite:` and the path of a file, relative to the folder of the TOML file, or `postgresql://host/database` (`pip
    install '.[postgres]'`); or a [reference](#secrets) to a URL. One with a user or password must be a reference.

    Required.
    """
    timeout: object
    """How long a lookup waits for a lock or a connection.

    Default: `"1s"`
    """


class IssuerConfig(TypedDict, total=False):
    """An issuer of tokens, and the claims that describe the caller."""

    url: str
    """The exact `iss` of the tokens, also with its slash at the end if it has one: https, or http on the same machine.

    Required.
    """
    audience: object
    """The `aud` of the tokens, or a list of which one is enough.

    Required.
    """
    jwks_url: str
    """Where the keys are.

    Default: `jwks_uri` of `url` + `/.well-known/openid-configuration`
    """
    algorithms: list[str]
    """The signature algorithms: `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, `ES512`,
    `Ed25519`.

    Default: `["RS256", "ES256"]`
    """
    types: list[str]
    """The values of `typ` in the header; `"JWT"` includes tokens without one.

    Default: `["JWT", "at+jwt"]`
    """
    leeway: object
    """How far the clocks may differ, at most ten minutes.

    Default: 60 seconds
    """
    required: dict[str, Any]
    """A table of claims that must have a value, or one of a list; a string may be a pattern with `*`. A claim that is a
    list must contain it.

    Default: none
    """
    prefix: object
    """What the id of the caller begins with, so that two issuers never name the same caller.

    Default: `url` without its scheme, and a colon
    """
    id: object
    """The claim that identifies the caller.

    Default: `"sub"`
    """
    name: object
    """The claim with the name to display.

    Default: none
    """
    team: object
    """The claim with the team.

    Default: none
    """
    roles: object
    """The claim with the caller's roles or groups: a list, or a string with blanks between them.

    Default: none
    """
    grants: list[Any]
    """What each role gives: a list of tables. The first one whose role the caller has decides; a caller without any of
    the roles may use no model.

    Default: none: every model
    """
    metadata: list[str]
    """Claims that are copied to `principal.metadata`, for your own records.

    Default: none
    """


class GrantConfig(TypedDict, total=False):
    """What a role gives."""

    role: str
    """The role.

    Required.
    """
    models: list[str]
    """The model names and patterns with `*` that it gives.

    Default: `["*"]`
    """
    limits: list[Any]
    """A list of [limits](#limits-rate-limits) of the caller's own, as those of a [key](#keys-the-callers).

    Default: the general limits
    """


class ThrottleConfig(TypedDict, total=False):
    """How often an address may fail to authenticate."""

    failures: int
    """How often an address may fail at once, and again in each `window`.

    Default: 100
    """
    window: object
    """A [duration](#durations).

    Default: `"1m"`
    """
    trusted_proxies: list[str]
    """Addresses and networks of proxies: behind them the address is the last one in `x-forwarded-for` that is not a
    proxy's.

    Default: none: the address that the server reports
    """
