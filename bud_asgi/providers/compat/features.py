"""What a client asks of Anthropic's own API, fitted to a service that has only a part of it.

    rules = service_rules("bedrock")
    bridged = bridge(call, rules, "claude-opus-4-8")
    body = splice(call.request, without=bridged.without, changed=bridged.changed)

`bridge` decides which top-level fields go, which get another value, and which beta flags travel, in the list that the
service takes them in. A flag and the field that it switches on travel together or not at all. What could be left out
without harm is left out and named; what could not is refused. The rules are the dated `data/providers.json`.

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
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.compat.edit import BodyEdit
from bud_asgi.providers.compat.model_ids import Generation, generation
from bud_asgi.providers.compat.nested_edits import EditName, apply_edits
from bud_asgi.providers.seam import ProviderRequest

MAX_BETAS = 64
"""How many beta flags a request may name; the service knows some fifty."""

_MAX_LIST = 8192  # bytes of a list of flags
_decode_flags = msgspec.json.Decoder(list[str]).decode
_FLAG = re.compile(r"[0-9A-Za-z._-]{1,100}")


class BetaRule(msgspec.Struct, frozen=True):
    """A beta flag that a service takes.

    `sent_as`: the names it has there, itself if there are none. `since`: the first generation of models that takes it.
    `needs`: the top-level field without which it is refused.
    """

    sent_as: tuple[str, ...] = ()
    since: Generation | None = None
    needs: str = ""


class FieldRule(msgspec.Struct, frozen=True):
    """A top-level field that a service lacks, or has only with one of the beta `flags` (names, or patterns with `*`).

    `lack`: whether it can be left out without harm. `details` go into the envelope where it is refused.
    """

    lack: Literal["drop", "refuse"]
    flags: tuple[str, ...] = ()
    details: Mapping[str, str | int | list[str]] | None = None


class VersionRule(msgspec.Struct, frozen=True):
    """How a service names a version of the API, and since which generation of models it has it."""

    sent_as: str
    since: Generation | None = None


class ServiceRules(msgspec.Struct, frozen=True):
    """What is known of one service. `max_body` is the largest request in bytes.

    `versions` are its names for those of the API, `version` the one that all of its models have. `counting_betas`: the
    flags that it takes where tokens are counted; all, if `None`. `counts_until`: the last generation whose tokens it
    counts. `tool_betas`: flags that tools need there, by what stands in them, where Anthropic's own API needs none.
    `drop_fields` are left out because the operator says so.
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
        """The same with more flags that travel, with flags that don't, with fields that are left out."""
        betas = {flag: rule for flag, rule in self.betas.items() if flag not in drop_betas}
        allowed = {flag: BetaRule() for flag in allow_betas}
        counting = None if self.counting_betas is None else (*self.counting_betas, *allow_betas)
        return msgspec.structs.replace(
            self, betas=betas | allowed, counting_betas=counting, drop_fields=self.drop_fields | set(drop_fields)
        )


class Adaptation(msgspec.Struct, frozen=True):
    """What to change of a request, for `splice`, and what to tell.

    `without`: top-level fields to leave out, `anthropic_beta` always among them. `changed`: fields with a new value, as
    JSON; `anthropic_version` unless the body has its own. `betas`: the flags that travel, in order, each once.
    `dropped`: the flags and fields that don't, by name.
    """

    without: frozenset[str]
    changed: Mapping[str, bytes]
    betas: tuple[str, ...]
    dropped: tuple[str, ...]


class _Known(msgspec.Struct, frozen=True):
    as_of: str
    services: Mapping[Literal["bedrock", "vertex"], ServiceRules]


@cache
def _known() -> _Known:
    return msgspec.json.decode((files("bud_asgi") / "data" / "providers.json").read_bytes(), type=_Known)


def service_rules(service: Literal["bedrock", "vertex"]) -> ServiceRules:
    """The rules of a service, read on first use."""
    return _known().services[service]


def bridge(call: ProviderRequest, rules: ServiceRules, model: str) -> Adaptation:
    """Fit a call to a service. `model` is Anthropic's name for the model, by which its abilities are judged. Pure.

    Raises `InvalidRequest`, naming the field, for what the service lacks and what is not left out without harm, and for
    a list of beta flags that is none.
    """
    request = call.request
    asked = asked_betas(call)
    taken = _Taken(request, rules, generation(model))
    draft = BodyEdit(request, [name for flag in asked for name in taken.names(flag)])
    left = [flag for flag in asked if not taken.names(flag)]
    _judge_fields(draft, asked, taken)
    for word, flag in rules.tool_betas.items():
        if draft.says("tools", word.encode()):
            draft.flags.append(flag)
    apply_edits(draft, rules.edits)
    draft.without.add("anthropic_beta")
    if request.value("anthropic_version") in {None, b"null"}:
        draft.changed["anthropic_version"] = msgspec.json.encode(_version(call, taken))
    betas = tuple(flag for flag in dict.fromkeys(draft.flags) if taken.names(flag))
    return Adaptation(frozenset(draft.without), draft.changed, betas, (*left, *draft.dropped))


def asked_betas(call: ProviderRequest) -> tuple[str, ...]:
    """The beta flags that a client asks for, in the header and then in the body's list, each once.

    Raises `InvalidRequest` for what is no list of names.
    """
    header = call.headers.get(b"anthropic-beta", b"").decode("latin-1")
    flags = header.split(",") if header else []
    value = call.request.value("anthropic_beta")
    if value is not None and value != b"null":
        try:
            flags += _decode_flags(value[:_MAX_LIST])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidRequest("anthropic_beta: Input should be a valid list of strings") from None
    asked = tuple(dict.fromkeys(flag.strip() for flag in flags if flag and not flag.isspace()))
    if len(asked) > MAX_BETAS:
        raise InvalidRequest(f"anthropic-beta: at most {MAX_BETAS} values are supported")
    for flag in asked:
        if not _FLAG.fullmatch(flag):
            raise InvalidRequest(f"anthropic-beta: {flag[:100]!a} is not a valid value")
    return asked


def _version(call: ProviderRequest, taken: _Taken) -> str:
    """The service's name for the client's version; one that nobody knows is the service's to judge."""
    asked = call.headers.get(b"anthropic-version", b"").decode("latin-1")
    rule = taken.rules.versions.get(asked)
    if rule is None:
        return asked or taken.rules.version
    if rule.since is not None and (taken.generation is None or taken.generation < rule.since):
        return taken.rules.version
    return rule.sent_as


class _Taken:
    """Which beta flags a service takes with one request, for a model of some generation."""

    def __init__(self, request: MessagesRequest, rules: ServiceRules, named: Generation | None) -> None:
        self._request = request
        self._counting = rules.counting_betas if request.counting else None
        self._names: dict[str, tuple[str, ...]] = {}
        self.generation = named
        self.rules = rules

    def names(self, flag: str) -> tuple[str, ...]:
        """The names it is sent as; none if it isn't."""
        names = self._names.get(flag)
        if names is None:
            names = self._names[flag] = self._judge(flag)
        return names

    def _judge(self, flag: str) -> tuple[str, ...]:
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


def _judge_fields(draft: BodyEdit, asked: tuple[str, ...], taken: _Taken) -> None:
    """Leave out the top-level fields that the service lacks, or refuse them; a flag and its field go together."""
    rules = taken.rules
    for name in draft.request.spans:
        rule = rules.fields.get(name)
        if name in rules.drop_fields:
            draft.drop(name)
            continue
        if rule is None or _has(rule, asked, taken):
            continue
        if draft.request.value(name) == b"null":
            draft.without.add(name)
        elif rule.lack == "drop":
            draft.drop(name)
        else:
            raise InvalidRequest(f"{name}: Extra inputs are not permitted", details=rule.details)


def _has(rule: FieldRule, asked: tuple[str, ...], taken: _Taken) -> bool:
    """Whether the service has the field of this rule. Where the client left the flag out, the service says so."""
    paired = [flag for flag in asked if matches_any(rule.flags, flag)]
    if not paired:
        return any(matches_any(rule.flags, flag) and taken.names(flag) for flag in taken.rules.betas)
    return any(taken.names(flag) for flag in paired)
