"""Which beta flags and fields of a request a service accepts, by its rules."""

from __future__ import annotations

from typing import Literal

from bud_asgi.protocol.patterns import matches_any
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.compat.model_ids import generation
from bud_asgi.providers.compat.rules import FieldRule, ServiceRules


class Support:
    """Which beta flags and fields a service accepts in one request, for one model."""

    def __init__(self, request: MessagesRequest, rules: ServiceRules, model: str, requested: tuple[str, ...]) -> None:
        self._request = request
        self._counting = rules.counting_betas if request.counting else None
        self.requested = requested
        self._sent_as: dict[str, tuple[str, ...]] = {}
        self.model = model
        self.generation = generation(model)
        self.rules = rules

    def sent_as(self, flag: str) -> tuple[str, ...]:
        """Return the names under which a flag is sent; none if it is not sent."""
        names = self._sent_as.get(flag)
        if names is None:
            names = self._sent_as[flag] = self._names_of(flag)
        return names

    def treatment_of(self, name: str) -> Literal["send", "drop", "reject"]:
        """Return what happens to a top-level field of the request, unless its value is null."""
        if name in self.rules.drop_fields:
            return "drop"
        rule = self.rules.fields.get(name)
        return "send" if rule is None or self.has_field(rule) else rule.if_unsupported

    def has_field(self, rule: FieldRule) -> bool:
        """Return whether the service accepts the field of a rule, with the beta flags that the client requests.

        If the client requests none of the field's flags, the field is sent wherever one of them would be, and the
        service reports the missing flag.
        """
        if rule.supported_by(self.model):
            return True
        paired = self.rules.requested_flags(rule, self.requested)
        if paired:
            sent = {name for flag in self.requested for name in self.sent_as(flag)}
            return any(name in sent for name in paired)
        if rule.only_requested or (rule.flags and self.rules.sends_unknown_betas):
            return True
        known = (*self.rules.betas, *self.rules.allow_betas)
        return any(matches_any(rule.flags, flag) and self.sent_as(flag) for flag in known)

    def _names_of(self, flag: str) -> tuple[str, ...]:
        rules = self.rules
        if any(matches_any(rules.flags_of(name), flag) for name in rules.drop_fields if "." not in name):
            return ()
        rule, preferred = rules.betas.get(flag), rules.prefers(flag)
        if preferred == "drop":
            return ()
        if preferred == "allow":
            return self._names_left(rule.sent_as if rule else ()) or (flag,)
        counted = self._counting is None or flag in self._counting
        if rule is None or not counted or not rule.accepted_by(self.model):
            return (flag,) if rule is None and rules.sends_unknown_betas else ()
        if rule.needs and (rule.needs not in self._request.spans or rule.needs in rules.drop_fields):
            return ()
        return self._names_left(rule.sent_as) if rule.sent_as else (flag,)

    def _names_left(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if self.rules.prefers(name) != "drop")
