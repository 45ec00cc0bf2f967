"""Adapts a request for Anthropic's own API to a service that supports only part of it.

    rules = service_rules("bedrock")
    adapted = adapt(call, rules, "claude-opus-4-8")
    body = splice(call.request, without=adapted.without, changed=adapted.changed)

`adapt` decides which fields to leave out, which to change, and which beta flags to send. A beta flag and the fields
that it enables are either both sent or both left out. What the client can do without is left out and reported; for
anything else the request is rejected. What is known is in `data/providers.json`, with its date.

Vendor pages: "Beta headers", "Features overview", "Claude on Amazon Bedrock", "Claude on Vertex AI".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

import msgspec

from bud_asgi.protocol.betas import requested_betas
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.fields import FIELDS
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.protocol.request import MessagesRequest, Span
from bud_asgi.protocol.values import TooManyValues
from bud_asgi.providers.compat.edit import MAX_EDITS, BodyEdit
from bud_asgi.providers.compat.moves import EDITED_WORDS, apply_edits, move_automatic_breakpoint
from bud_asgi.providers.compat.prune import is_neutral, pruned, tree_of
from bud_asgi.providers.compat.rules import NestedField, NestedFields, ServiceRules
from bud_asgi.providers.compat.support import Support
from bud_asgi.providers.seam import ProviderRequest

_ESCAPE = b"\\u00"
_ESCAPED_LETTER = re.compile(re.escape(_ESCAPE) + rb"[4-7]")  # a key may be spelled so; serializers escape no letters
_LONGEST_VERSION = 32


class Adaptation(msgspec.Struct, frozen=True):
    """The changes to a request, in the form that `splice` takes, and what they cost the client.

    `without`: top-level fields to leave out, always including `anthropic_beta`. `changed`: new values of fields, as
    JSON, including `anthropic_version` unless the body has its own or the service reads it elsewhere. `betas`: the beta
    flags to send, in order and without duplicates. `dropped`: the names of the beta flags and fields that are not sent.
    """

    without: frozenset[str]
    changed: Mapping[str, bytes]
    betas: tuple[str, ...]
    dropped: tuple[str, ...]


def adapt(call: ProviderRequest, rules: ServiceRules, model: str) -> Adaptation:
    """Adapt a request to a service. Pure.

    `model` is Anthropic's name of the model; it decides what is supported. Raises `InvalidRequest`, naming the field,
    for one that the service does not support and that cannot be left out, and for an invalid list of beta flags;
    `RequestTooLarge` for one with too many values to look for what the operator drops.
    """
    request = call.request
    requested = requested_betas(call.headers, request)
    version = call.headers.get(b"anthropic-version", b"")
    spans = request.spans
    if spans.keys() <= FIELDS.keys() and len(version) <= _LONGEST_VERSION:
        usual = _usual(rules, model, requested, version, request.counting, tuple(spans))
        if usual is not None and not usual.is_affected_by(request.body, spans):
            return usual.adaptation
    return _adapted(request, Support(request, rules, model, requested), version)


def _adapted(request: MessagesRequest, support: Support, version: bytes) -> Adaptation:
    rules, body = support.rules, BodyEdit(request)
    _drop_or_reject_fields(body, support)
    apply_edits(body, rules.edits)
    _prune_fields(body, support)
    if "cache_control" in rules.edits:
        move_automatic_breakpoint(body)
    if rules.tool_words:
        body.flags += [rules.tool_words[word] for word in body.found_in("tools", rules.tool_words)]
    body.without.add("anthropic_beta")
    if rules.version and request.value("anthropic_version") in {None, b"null"}:
        body.changed["anthropic_version"] = msgspec.json.encode(_version(version.decode("latin-1"), support))
    withdrawn = _withdrawn(body, support) if body.lost else frozenset[str]()
    names: list[str] = []
    unsent: list[str] = []
    for flag in support.requested:
        sent = [name for name in support.sent_as(flag) if name not in withdrawn]
        names += sent
        if not sent:
            unsent.append(flag)
    betas = tuple([name for name in dict.fromkeys(names + body.flags) if support.sent_as(name)])
    return Adaptation(frozenset(body.without), body.changed, betas, (*unsent, *body.dropped))


def _version(requested: str, support: Support) -> str:
    """Return the service's name for the client's API version. An unknown version is sent on, for it to validate."""
    rule = support.rules.versions.get(requested)
    if rule is None:
        return requested or support.rules.version
    if rule.since is not None and (support.generation is None or support.generation < rule.since):
        return support.rules.version
    return rule.sent_as


class _Usual(msgspec.Struct, frozen=True, gc=False):
    """The adaptation of all requests with the same fields and flags, unless a value contains one of its `words`."""

    adaptation: Adaptation
    words: tuple[tuple[str, tuple[bytes, ...]], ...]

    def is_affected_by(self, body: bytes, spans: Mapping[str, Span]) -> bool:
        """Return whether a value of a request contains one of the words."""
        for name, words in self.words:
            start, end = spans[name]
            for word in words:
                if body.find(word, start, end) >= 0:
                    return True
        return False


@lru_cache(maxsize=128)
def _usual(
    rules: ServiceRules, model: str, requested: tuple[str, ...], version: bytes, counting: bool, names: tuple[str, ...]
) -> _Usual | None:
    """Return how requests with these fields are usually adapted; `None` if it depends on the value of one of them."""
    spans = dict.fromkeys(names, (0, 1))
    request = MessagesRequest(b"0", model, None, stream=False, counting=counting, located=spans)
    support = Support(request, rules, model, requested)
    if not {"anthropic_version", *rules.edits}.isdisjoint(names):
        return None
    if any(support.treatment_of(name) != "send" for name in names):
        return None
    words: dict[str, tuple[bytes, ...]] = {}
    for name, by_word in _missing(rules, model, requested).items():
        words[name] = (*by_word, _ESCAPE) if _has_operators(by_word) else tuple(by_word)
    words["tools"] = (*words.get("tools", ()), *rules.tool_words, *EDITED_WORDS)
    return _Usual(_adapted(request, support, version), tuple((name, words[name]) for name in names if name in words))


def _has_operators(by_word: Mapping[bytes, tuple[NestedField, ...]]) -> bool:
    return any(field.is_operators for fields in by_word.values() for field in fields)


def _drop_or_reject_fields(body: BodyEdit, support: Support) -> None:
    """Drop the top-level fields that the service does not support. Raises `InvalidRequest` if one cannot be dropped."""
    rules = support.rules
    for name in body.request.spans:
        treatment = support.treatment_of(name)
        if treatment == "send":
            continue
        if body.request.value(name) == b"null" and name not in rules.drop_fields:
            body.without.add(name)
        elif treatment == "drop":
            body.drop(name)
            body.lost += rules.flags_of(name)
        else:
            raise InvalidRequest(f"{name}: Extra inputs are not permitted", details=rules.fields[name].details)


def _prune_fields(body: BodyEdit, support: Support) -> None:
    """Remove the nested fields that the service does not support, or that the operator drops."""
    rules = support.rules
    for root, by_word in _missing(rules, support.model, support.requested).items():
        if root not in body.request.spans and root not in body.changed:
            continue
        escaped = rules.drop_fields and _has_operators(by_word) and body.matches(root, _ESCAPED_LETTER)
        found = [field for word in (by_word if escaped else body.found_in(root, by_word)) for field in by_word[word]]
        removed = tuple(field for field in found if field.is_operators or not support.has_field(field.rule))
        if removed:
            _prune(body, root, removed, support)


@lru_cache(maxsize=256)
def _missing(rules: ServiceRules, model: str, requested: tuple[str, ...]) -> NestedFields:
    """Return the nested fields that may be unsupported: neither by the model, nor for want of a requested flag."""

    def is_missing(field: NestedField) -> bool:
        rule = field.rule
        if field.is_operators:
            return True
        return not rule.supported_by(model) and not (rule.only_requested and not rules.requested_flags(rule, requested))

    missing: dict[str, Mapping[bytes, tuple[NestedField, ...]]] = {}
    for root, by_word in rules.nested_in.items():
        left = {word: kept for word, fields in by_word.items() if (kept := tuple(filter(is_missing, fields)))}
        if left:
            missing[root] = left
    return missing


def _prune(body: BodyEdit, root: str, fields: tuple[NestedField, ...], support: Support) -> None:
    removed: list[NestedField] = []
    left = MAX_EDITS

    def removes(field: NestedField, value: bytes | msgspec.Raw) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooManyValues
        rule = field.rule
        if not field.is_operators:
            if is_neutral(field, value):
                return True
            if rule.if_unsupported == "send":
                return False
            if rule.if_unsupported == "reject":
                raise InvalidRequest(f"{field.name}: Extra inputs are not permitted", details=rule.details)
        removed.append(field)
        return True

    required = any(field.is_operators for field in fields)
    new = body.edited(root, lambda value: pruned(value, tree_of(fields), removes), required=required)
    if new is None:
        return
    for field in dict.fromkeys(removed):
        body.lost += field.rule.flags
        if field.rule.instead:
            body.flags.append(field.rule.instead)
        if not (field.rule.instead and support.sent_as(field.rule.instead)):
            body.mark_dropped(field.name)
    if new == b"{}":
        body.remove(root)
        body.lost += support.rules.flags_of(root)
    else:
        body.changed[root] = new


def _withdrawn(body: BodyEdit, support: Support) -> frozenset[str]:
    """Return the names of the flags whose fields have been removed, unless another field of the request needs them."""
    lost, needed = tuple(body.lost), tuple(_needed(body, support.rules))
    names = (name for flag in support.requested for name in support.sent_as(flag))
    return frozenset(name for name in names if matches_any(lost, name) and not matches_any(needed, name))


def _needed(body: BodyEdit, rules: ServiceRules) -> Iterator[str]:
    for name, rule in rules.fields.items():
        if name in body.request.spans and name not in body.without:
            yield from rule.flags
    for root, by_word in rules.nested_in.items():
        for word in body.found_in(root, by_word):
            yield from (flag for field in by_word[word] if not field.is_operators for flag in field.rule.flags)
