"""Targets whose provider lacks what a request needs come after those that have it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange
from bud_asgi.protocol.patterns import LONGEST_REMEMBERED
from bud_asgi.providers import NO_LOSS, Loss, Needs, Provider, ProviderRequest, needs_of, traits_of

Groups = Sequence[Sequence[Target]]

_MAX_REMEMBERED = 256


class Preference(msgspec.Struct, frozen=True, gc=False):
    """The groups of targets that serve a request best, and those that are tried `later` because it loses something."""

    groups: Groups
    later: Groups = ()


class Losses:
    """What requests would lose at the providers of a gateway.

    `dropped_fields` are the account fields that each provider does not get: to lose those is what the operator wants.
    """

    def __init__(self, providers: Mapping[str, Provider], dropped_fields: Mapping[str, frozenset[str]]) -> None:
        traits = {name: traits_of(provider) for name, provider in providers.items()}
        self._loss_of = {name: each.loss_of for name, each in traits.items() if each.loss_of is not None}
        self._dropped_fields = dropped_fields
        self._remembered: dict[tuple[int, str, Needs], tuple[Groups, Preference]] = {}

    def at(self, exchange: Exchange, target: Target) -> Loss:
        """What a request would lose at a target."""
        needs = needs_of(exchange.headers, exchange.decoded_request)
        return NO_LOSS if needs is None else self._loss(exchange, target, needs)

    def prefer(self, exchange: Exchange, groups: Groups, *, fixed: bool = False) -> Preference:
        """Divide targets by what a request would lose at them.

        Those that lose nothing come first, in their groups. Those whose provider would reject the request are left
        out. Where all lose something, or all would reject it, the groups stay as they are. `fixed`: the same object
        is passed for other requests, so that the result is remembered for those that need the same.
        """
        needs = needs_of(exchange.headers, exchange.decoded_request) if self._loss_of else None
        if needs is None:
            return Preference(groups)
        model = exchange.decoded_request.model
        if not fixed or len(model) > LONGEST_REMEMBERED:
            return self._divide(exchange, groups, needs)
        key = id(groups), model, needs
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            # The groups are kept, so that their id stays their own.
            found = self._remembered[key] = groups, self._divide(exchange, groups, needs)
        return found[1]

    def _divide(self, exchange: Exchange, groups: Groups, needs: Needs) -> Preference:
        losses = {target: self._loss(exchange, target, needs) for group in groups for target in group}
        whole = _only(groups, {target for target, loss in losses.items() if loss is NO_LOSS})
        served = _only(groups, {target for target, loss in losses.items() if not loss.rejected})
        if not whole:
            return Preference(served or groups)
        return Preference(whole, _only(served, {target for target, loss in losses.items() if loss is not NO_LOSS}))

    def _loss(self, exchange: Exchange, target: Target, needs: Needs) -> Loss:
        loss_of = self._loss_of.get(target.provider)
        if loss_of is None:
            return NO_LOSS
        dropped = self._dropped_fields.get(target.provider, frozenset())
        if not dropped.isdisjoint(needs.fields):
            fields = tuple(name for name in needs.fields if name not in dropped)
            needs = msgspec.structs.replace(needs, fields=fields)
        return loss_of(ProviderRequest(exchange.decoded_request, exchange.headers, target.model), needs)


def _only(groups: Groups, targets: set[Target]) -> Groups:
    """The groups without other targets; one that stays whole is the same object."""
    kept = (tuple(target for target in group if target in targets) for group in groups)
    return [group if len(left) == len(group) else left for group, left in zip(groups, kept, strict=True) if left]
