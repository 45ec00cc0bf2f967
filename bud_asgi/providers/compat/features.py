"""Adapts a request for Anthropic's own API to a service that supports only part of it.

    rules = service_rules("bedrock")
    adapted = adapt(call, rules, "claude-opus-4-8")
    body = splice(call.request, without=adapted.without, changed=adapted.changed)

`adapt` decides which top-level fields to leave out, which to change, and which beta flags to send. A beta flag and the
field that it enables are either both sent or both left out. What the client can do without is left out and reported;
for anything else the request is rejected. The rules are in `data/providers.json`, with their date.

Vendor pages: "Beta headers", "Features overview", "Claude on Amazon Bedrock", "Claude on Vertex AI".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.compat.edit import BodyEdit
from bud_asgi.providers.compat.model_ids import Generation, generation
from bud_asgi.providers.compat.nested_edits import EditName, apply_edits
from bud_asgi.providers.seam import ProviderRequest

MAX_BETAS = 64
"""The most beta flags that a request may name; Anthropic documents about fifty."""

_MAX_LIST = 8192  # bytes of the list of flags in a body
_decode_flags = msgspec.json.Decoder(list[str]).decode
_FLAG = re.compile(r"[0-9A-Za-z._-]{1,100}")


class BetaRule(msgspec.Struct, frozen=True):
    """A beta flag that a service accepts.

    `sent_as`: its names at the service; empty if it has the same name there. `since`: the first model generation that
    accepts it. `needs`: the top-level field without which the service rejects it.
    """

    sent_as: tuple[str, ...] = ()
    since: Generation | None = None
    needs: str = ""


class FieldRule(msgspec.Struct, frozen=True):
    """A top-level field that a service does not support, or only with one of the beta `flags` (names or `*` patterns).

    `if_unsupported`: leave the field out, or reject the request with `details` in the error body.
    """

    if_unsupported: Literal["drop", "reject"]
    flags: tuple[str, ...] = ()
    details: Mapping[str, str | int | list[str]] | None = None


class VersionRule(msgspec.Struct, frozen=True):
    """A service's name for a version of the API, and the first model generation that supports it."""

    sent_as: str
    since: Generation | None = None


class ServiceRules(msgspec.Struct, frozen=True):
    """What is known about one service. `max_body` is the largest request, in bytes.

    `versions` maps versions of the API to those of the service; `version` is the one that all of its models support.
    `counting_betas`: the beta flags accepted when counting tokens; all of them if `None`. `counts_until`: the last
    model generation whose tokens it counts. `tool_betas`: beta flags that tools need there but not at Anthropic, by
    the bytes that a tool contains. `drop_fields`: fields left out because the operator configured it.
    """

    max_body: int
    version: str
    versions: Mapping[str, VersionRule]
    betas: Mapping[str, BetaRule]
    fields: Mapping[str, FieldRule]
    edits: tuple[EditName, ...]
    counting_betas: tuple[str, ...] | None = None
    counts_until: Generation | None = None
    tool_betas: Mapping[str, str] = {}
    drop_fields: frozenset[str] = frozenset()

    def adjusted(
        self, *, allow_betas: Collection[str] = (), drop_betas: Collection[str] = (), drop_fields: Collection[str] = ()
    ) -> ServiceRules:
        """Return these rules with more flags to send, flags not to send, and fields to leave out."""
        betas = {flag: rule for flag, rule in self.betas.items() if flag not in drop_betas}
        allowed = {flag: BetaRule() for flag in allow_betas}
        counting = None if self.counting_betas is None else (*self.counting_betas, *allow_betas)
        return msgspec.structs.replace(
            self, betas=betas | allowed, counting_betas=counting, drop_fields=self.drop_fields | set(drop_fields)
        )


class Adaptation(msgspec.Struct, frozen=True):
    """The changes to a request, in the form that `splice` takes, and what they cost the client.

    `without`: top-level fields to leave out, always including `anthropic_beta`. `changed`: new values of fields, as
    JSON, including `anthropic_version` unless the body has its own. `betas`: the beta flags to send, in order and
    without duplicates. `dropped`: the names of the beta flags and fields that are not sent.
    """

    without: frozenset[str]
    changed: Mapping[str, bytes]
    betas: tuple[str, ...]
    dropped: tuple[str, ...]


class KnownRules(msgspec.Struct, frozen=True):
    """The content of `data/providers.json`. `as_of` is the date when the rules were last checked."""

    as_of: str
    services: Mapping[Literal["bedrock", "vertex"], ServiceRules]


@cache
def known_rules() -> KnownRules:
    """Return the rules of all services, which are read from the package's data on first use."""
    return msgspec.json.decode((files("bud_asgi") / "data" / "providers.json").read_bytes(), type=KnownRules)


def service_rules(service: Literal["bedrock", "vertex"]) -> ServiceRules:
    """Return the rules of one service."""
    return known_rules().services[service]


def adapt(call: ProviderRequest, rules: ServiceRules, model: str) -> Adaptation:
    """Adapt a request to a service. Pure.

    `model` is Anthropic's name of the model; its generation decides what is supported. Raises `InvalidRequest`, naming
    the field, for one that the service does not support and that cannot be left out, and for an invalid list of beta
    flags.
    """
    request = call.request
    requested = requested_betas(call)
    support = BetaSupport(request, rules, generation(model))
    body = BodyEdit(request, [name for flag in requested for name in support.sent_as(flag)])
    unsupported = [flag for flag in requested if not support.sent_as(flag)]
    _drop_or_reject_fields(body, requested, support)
    for word, flag in rules.tool_betas.items():
        if body.contains("tools", word.encode()):
            body.flags.append(flag)
    apply_edits(body, rules.edits)
    body.without.add("anthropic_beta")
    if request.value("anthropic_version") in {None, b"null"}:
        body.changed["anthropic_version"] = msgspec.json.encode(_version(call, support))
    betas = tuple(flag for flag in dict.fromkeys(body.flags) if support.sent_as(flag))
    return Adaptation(frozenset(body.without), body.changed, betas, (*unsupported, *body.dropped))


def requested_betas(call: ProviderRequest) -> tuple[str, ...]:
    """Return the beta flags that the client requests in the header, then in the body, without duplicates.

    Raises `InvalidRequest` if one of them is not a valid list of flags.
    """
    header = call.headers.get(b"anthropic-beta", b"").decode("latin-1")
    flags = header.split(",") if header else []
    value = call.request.value("anthropic_beta")
    if value is not None and value != b"null":
        try:
            flags += _decode_flags(value[:_MAX_LIST])
        except MALFORMED_JSON:
            raise InvalidRequest("anthropic_beta: Input should be a valid list of strings") from None
    requested = tuple(dict.fromkeys(flag.strip() for flag in flags if flag and not flag.isspace()))
    if len(requested) > MAX_BETAS:
        raise InvalidRequest(f"anthropic-beta: at most {MAX_BETAS} values are supported")
    for flag in requested:
        if not _FLAG.fullmatch(flag):
            raise InvalidRequest(f"anthropic-beta: {flag[:100]!a} is not a valid value")
    return requested


class BetaSupport:
    """Which beta flags a service accepts with one request, for a model of a given generation."""

    def __init__(self, request: MessagesRequest, rules: ServiceRules, model_generation: Generation | None) -> None:
        self._request = request
        self._counting = rules.counting_betas if request.counting else None
        self._sent_as: dict[str, tuple[str, ...]] = {}
        self.generation = model_generation
        self.rules = rules

    def sent_as(self, flag: str) -> tuple[str, ...]:
        """Return the names under which a flag is sent; none if it is not sent."""
        names = self._sent_as.get(flag)
        if names is None:
            names = self._sent_as[flag] = self._names_of(flag)
        return names

    def _names_of(self, flag: str) -> tuple[str, ...]:
        rule = self.rules.betas.get(flag)
        if rule is None or (self._counting is not None and flag not in self._counting):
            return ()
        if rule.since is not None and self.generation is not None and self.generation < rule.since:
            return ()
        if rule.needs and (rule.needs not in self._request.spans or rule.needs in self.rules.drop_fields):
            return ()
        if any(matches_any(self._flags_of(name), flag) for name in self.rules.drop_fields):
            return ()
        return rule.sent_as or (flag,)

    def _flags_of(self, field: str) -> tuple[str, ...]:
        rule = self.rules.fields.get(field)
        return rule.flags if rule else ()


def _version(call: ProviderRequest, support: BetaSupport) -> str:
    """Return the service's name for the client's API version. An unknown version is sent on, for it to validate."""
    requested = call.headers.get(b"anthropic-version", b"").decode("latin-1")
    rule = support.rules.versions.get(requested)
    if rule is None:
        return requested or support.rules.version
    if rule.since is not None and (support.generation is None or support.generation < rule.since):
        return support.rules.version
    return rule.sent_as


def _drop_or_reject_fields(body: BodyEdit, requested: tuple[str, ...], support: BetaSupport) -> None:
    """Drop the top-level fields that the service does not support. Raises `InvalidRequest` if one cannot be dropped."""
    rules = support.rules
    for name in body.request.spans:
        rule = rules.fields.get(name)
        if name in rules.drop_fields:
            body.drop(name)
            continue
        if rule is None or _supports(rule, requested, support):
            continue
        if body.request.value(name) == b"null":
            body.without.add(name)
        elif rule.if_unsupported == "drop":
            body.drop(name)
        else:
            raise InvalidRequest(f"{name}: Extra inputs are not permitted", details=rule.details)


def _supports(rule: FieldRule, requested: tuple[str, ...], support: BetaSupport) -> bool:
    """Return whether the service supports the field of a rule, with the beta flags that the client requests.

    If the client requests none of the field's flags, the field is sent wherever one of them would be, and the service
    reports the missing flag.
    """
    paired = [flag for flag in requested if matches_any(rule.flags, flag)]
    if not paired:
        return any(matches_any(rule.flags, flag) and support.sent_as(flag) for flag in support.rules.betas)
    return any(support.sent_as(flag) for flag in paired)
