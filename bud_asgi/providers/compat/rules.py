"""What is known about each service, from `data/providers.json`, and what an operator changes about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import Literal

import msgspec

from bud_asgi.protocol.patterns import matches_any
from bud_asgi.providers.compat.model_ids import Generation, generation
from bud_asgi.providers.compat.paths import Path, parse_path

Service = Literal["anthropic", "bedrock", "vertex"]
"""A service with rules. `anthropic` stands for every server of its API; its rules apply to what an operator drops."""

EditName = Literal["cache_control", "output_format", "tools.custom"]
"""The edits that move a value, each named after the field it changes."""


class BetaRule(msgspec.Struct, frozen=True):
    """A beta flag that a service accepts.

    `sent_as`: its names at the service; empty if it has the same name there. `since`: the first model generation that
    accepts it. `refused_by`: the models (names or `*` patterns) that do not. `needs`: the top-level field without which
    the service rejects it.
    """

    sent_as: tuple[str, ...] = ()
    since: Generation | None = None
    refused_by: tuple[str, ...] = ()
    needs: str = ""

    def accepted_by(self, model: str) -> bool:
        """Return whether a model accepts the flag; one of an unknown generation does."""
        model_generation = generation(model)
        if self.since is not None and model_generation is not None and model_generation < self.since:
            return False
        return not matches_any(self.refused_by, model)


class FieldRule(msgspec.Struct, frozen=True):
    """A field that a service does not support, or only with one of the beta `flags` (names or `*` patterns).

    `if_unsupported`: leave the field out, reject the request with `details` in the error body, or send it. A value that
    changes nothing is left out in any case: null, false, what is empty, and those listed in `neutral` (as JSON).
    `models` (names or patterns) and the first generation `since` support it. `instead` is a beta flag that replaces
    it. With `only_requested` the field is unsupported only if the client requests one of its flags.
    """

    if_unsupported: Literal["drop", "reject", "send"] = "drop"
    flags: tuple[str, ...] = ()
    details: Mapping[str, str | int | list[str]] | None = None
    models: tuple[str, ...] = ()
    since: Generation | None = None
    neutral: tuple[str, ...] = ()
    instead: str = ""
    only_requested: bool = False

    def supported_by(self, model: str) -> bool:
        """Return whether a model supports the field by itself. One of an unknown generation does, if any does."""
        if not self.models and self.since is None:
            return False
        model_generation = generation(model)
        if model_generation is None or matches_any(self.models, model):
            return True
        return self.since is not None and model_generation >= self.since


class NestedRule(msgspec.Struct, frozen=True):
    """A rule for fields inside others, by their `paths`. `name` is what the client reads in `bud-dropped`."""

    paths: tuple[str, ...]
    name: str
    rule: FieldRule


class NestedField(msgspec.Struct, frozen=True):
    """One path of a rule. `is_operators`: the operator drops it, whatever its value is and the model supports."""

    path: Path
    name: str
    rule: FieldRule
    is_operators: bool = False


NestedFields = Mapping[str, Mapping[bytes, tuple[NestedField, ...]]]
"""Nested fields by their top-level field, and by the word that a body with them contains."""


class VersionRule(msgspec.Struct, frozen=True):
    """A service's name for a version of the API, and the first model generation that supports it."""

    sent_as: str
    since: Generation | None = None


class ServiceRules(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is known about one service. Compared by identity: there is one object for equal adjustments.

    `max_body` is the largest request, in bytes.

    `versions` maps versions of the API to those of the service; `version` is the one that all of its models support,
    empty where the version is a header. `betas` are the flags that it accepts; `sends_unknown_betas`: any other too.
    `counting_betas`: the beta flags accepted when counting tokens; all of them if `None`. `counts_until`: the last
    model generation whose tokens it counts. `tool_betas`: beta flags that tools need there but not at Anthropic, by
    the bytes that a tool contains. `edits` are made in this order, the removal of `nested` fields after the first ones.

    `allow_betas`, `drop_betas` (flags or `*` patterns) and `drop_fields` (paths) are the operator's. `nested_in` has
    the nested fields by their top-level field and by the word that a body with them contains; `tool_words` is
    `tool_betas` in bytes. Both are derived.
    """

    max_body: int = 1 << 62
    version: str = ""
    versions: Mapping[str, VersionRule] = {}
    betas: Mapping[str, BetaRule] = {}
    sends_unknown_betas: bool = False
    fields: Mapping[str, FieldRule] = {}
    nested: tuple[NestedRule, ...] = ()
    edits: tuple[EditName, ...] = ()
    counting_betas: tuple[str, ...] | None = None
    counts_until: Generation | None = None
    tool_betas: Mapping[str, str] = {}
    allow_betas: tuple[str, ...] = ()
    drop_betas: tuple[str, ...] = ()
    drop_fields: tuple[str, ...] = ()
    nested_in: NestedFields = {}
    tool_words: Mapping[bytes, str] = {}

    def __post_init__(self) -> None:
        """Derive `nested_in` and `tool_words`."""
        known = [NestedField(parse_path(path), one.name, one.rule) for one in self.nested for path in one.paths]
        dropped = [
            NestedField(parse_path(path), path, FieldRule(flags=self.flags_of(path)), is_operators=True)
            for path in self.drop_fields
            if "." in path
        ]
        by_root: dict[str, dict[bytes, tuple[NestedField, ...]]] = {}
        for field in (*dropped, *known):
            by_word = by_root.setdefault(field.path[0].name, {})
            by_word[field.path[-1].word] = (*by_word.get(field.path[-1].word, ()), field)
        msgspec.structs.force_setattr(self, "nested_in", by_root)
        msgspec.structs.force_setattr(
            self, "tool_words", {word.encode(): flag for word, flag in self.tool_betas.items()}
        )

    def adjusted(
        self, *, allow_betas: Collection[str] = (), drop_betas: Collection[str] = (), drop_fields: Collection[str] = ()
    ) -> ServiceRules:
        """Return these rules with more flags to send, flags not to send, and fields to leave out."""
        return _adjusted(self, tuple(allow_betas), tuple(drop_betas), tuple(drop_fields))

    def flags_of(self, path: str) -> tuple[str, ...]:
        """Return the flags that enable the field at a path, or fields inside it."""
        top = self.fields.get(path)
        inside = [
            flag
            for one in self.nested
            if any(each == path or each.startswith((f"{path}.", f"{path}[")) for each in one.paths)
            for flag in one.rule.flags
        ]
        return (*(top.flags if top else ()), *inside)

    def requested_flags(self, rule: FieldRule, requested: Collection[str]) -> list[str]:
        """Return the names, at the service, of the requested flags that enable the field of a rule."""
        names = [name for flag in requested for name in self._names_of(flag)]
        return [name for name in names if matches_any(rule.flags, name)]

    def _names_of(self, flag: str) -> tuple[str, ...]:
        """Return the names of a flag at the service, whether they are sent or not."""
        rule = self.betas.get(flag)
        return rule.sent_as if rule and rule.sent_as else (flag,)

    def prefers(self, flag: str) -> Literal["allow", "drop"] | None:
        """Return what the operator wants of a flag: the longest name or pattern that matches it decides."""
        if not matches_any(self.allow_betas, flag) and not matches_any(self.drop_betas, flag):
            return None
        allow = _longest(self.allow_betas, flag)
        return "allow" if allow > _longest(self.drop_betas, flag) else "drop"


def _longest(patterns: tuple[str, ...], flag: str) -> int:
    """Return the literal characters in the longest match, one more for the name itself; -1 without a match."""
    return max(
        (len(flag) + 1 if pattern == flag else len(pattern.replace("*", ""))) if matches_any((pattern,), flag) else -1
        for pattern in (*patterns, "")
    )


@lru_cache(maxsize=64)
def _adjusted(
    rules: ServiceRules, allow_betas: tuple[str, ...], drop_betas: tuple[str, ...], drop_fields: tuple[str, ...]
) -> ServiceRules:
    return msgspec.structs.replace(rules, allow_betas=allow_betas, drop_betas=drop_betas, drop_fields=drop_fields)


class KnownRules(msgspec.Struct, frozen=True):
    """The content of `data/providers.json`. `as_of` is the date when the rules were last checked.

    `needed_betas` are the flags (names or `*` patterns) without which a request fails or has a different result, of
    those that clients send only where they use them and that no top-level field of the request stands for.
    """

    as_of: str
    needed_betas: tuple[str, ...]
    services: Mapping[Service, ServiceRules]


@cache
def known_rules() -> KnownRules:
    """Return the rules of all services, which are read from the package's data on first use."""
    return msgspec.json.decode((files("bud_asgi") / "data" / "providers.json").read_bytes(), type=KnownRules)


def service_rules(service: Service) -> ServiceRules:
    """Return the rules of one service."""
    return known_rules().services[service]
