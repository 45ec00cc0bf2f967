"""What a request needs that some services lack, and what it would lose at one of them. Pure.

A field is needed if it is in the body and some service rejects it, a beta flag if `needed_betas` in
`data/providers.json` says so. All else that a service lacks is left out without harm: most of the flags that Claude
Code lists in every request, for example.
"""

from __future__ import annotations

from functools import cache, lru_cache

import msgspec

from bud_asgi.protocol.betas import requested_betas
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.compat.rules import ServiceRules, known_rules
from bud_asgi.providers.compat.support import Support


class Needs(msgspec.Struct, frozen=True, gc=False):
    """The fields and the beta flags that a request needs. `requested` are all the flags that it lists."""

    fields: tuple[str, ...]
    betas: tuple[str, ...]
    requested: tuple[str, ...]
    counting: bool


class Loss(msgspec.Struct, frozen=True, gc=False):
    """What a request would lose at a provider.

    `rejected` are the fields for which the provider rejects the request. `dropped` are the fields and beta flags that
    it leaves out although the request needs them.
    """

    rejected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


NO_LOSS = Loss()
"""The provider has all that the request needs."""


def needs_of(headers: Headers, request: MessagesRequest) -> Needs | None:
    """What a request needs that some service lacks; `None` for most requests, and for an invalid list of flags."""
    if request.is_plain and b"anthropic-beta" not in headers:
        return None
    fields = () if request.is_plain else _needed_fields(request)
    try:
        requested = requested_betas(headers, request)
    except InvalidRequest:  # every provider has an error of its own for it
        return None
    betas = () if request.counting or not requested else _needed_betas(requested)  # no count depends on a flag
    return Needs(fields, betas, requested, request.counting) if fields or betas else None


def loss_of(request: MessagesRequest, needs: Needs, rules: ServiceRules, model: str) -> Loss:
    """What a request would lose at a service. `model` is Anthropic's name of the model."""
    support = Support(request, rules, model, needs.requested)
    treatments = {name: support.treatment_of(name) for name in needs.fields}
    rejected = tuple(name for name, treatment in treatments.items() if treatment == "reject")
    dropped = [name for name, treatment in treatments.items() if treatment == "drop"]
    dropped += [flag for flag in needs.betas if not support.sent_as(flag)]
    return Loss(rejected, tuple(dropped)) if rejected or dropped else NO_LOSS


def _needed_fields(request: MessagesRequest) -> tuple[str, ...]:
    found = _rejected_fields() & request.spans.keys()
    return tuple(sorted(filter(request.has, found))) if found else ()


@cache
def _rejected_fields() -> frozenset[str]:
    """The top-level fields that at least one service rejects."""
    services = known_rules().services.values()
    return frozenset(
        name for rules in services for name, rule in rules.fields.items() if rule.if_unsupported == "reject"
    )


@lru_cache(maxsize=256)
def _needed_betas(requested: tuple[str, ...]) -> tuple[str, ...]:
    needed = known_rules().needed_betas
    return tuple(flag for flag in requested if matches_any(needed, flag))
