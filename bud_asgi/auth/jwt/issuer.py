"""An issuer of tokens: which of its tokens are accepted, and which callers they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from bud_asgi.auth.jwt.documents import check_document_url
from bud_asgi.exchange import MODELS_EXPECTED, Principal
from bud_asgi.limit import Limit, check_own_limits
from bud_asgi.options import (
    OptionError,
    check_choice,
    check_function,
    check_items,
    check_name,
    check_seconds,
    check_text,
    check_texts,
    check_type,
    key_text,
    mismatch,
    one_of,
)
from bud_asgi.protocol.patterns import matches

Claims = Mapping[str, Any]
"""The claims of a token, whose signature, issuer, audience and times have been verified."""

ClaimPath = str | Sequence[str]
"""The name of a claim; a list of names for one inside another, such as `["realm_access", "roles"]`."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
"""The signature algorithms that an issuer can use: asymmetric ones only (RFC 7518, 3.1, and RFC 9864)."""

_MAX_LEEWAY = 600.0
_LONGEST_ID = 256
_AUDIENCE_EXPECTED = "the audience of the tokens, or a list of them"
_CLAIM_EXPECTED = 'the name of a claim, or a list of names such as ["realm_access", "roles"]'
_VALUES_EXPECTED = "a string, a whole number, true or false, or a list of them"


class ClaimError(Exception):
    """A verified token has not the claims that its issuer is configured for; the message is for the log."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a role gives: `models`, names or `*` patterns, and `limits` of the caller's own. Raises `OptionError`."""

    role: str
    models: tuple[str, ...] = ("*",)
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        """Check the options; lists become tuples."""
        check_name("role", self.role)
        msgspec.structs.force_setattr(self, "models", check_texts("models", self.models, MODELS_EXPECTED))
        msgspec.structs.force_setattr(self, "limits", check_own_limits(self.limits))


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer whose tokens are accepted, and the claims that describe the caller.

    `url` is the exact `iss` of its tokens (https, or http on this machine). Its keys are at `jwks_url`, by default the
    one that it publishes (OpenID Connect Discovery 1.0, 4). A token must be for one of `audience`, and not be expired;
    clocks may differ by `leeway` seconds. `algorithms` are those that its keys may be used with, `types` the values of
    `typ` that are accepted, in any case; `JWT` includes tokens without one. `required` are claims that must have, or
    contain, a value or one of several; a string may be a pattern with `*`.

    The caller's id is `prefix` and the claim `id`. The prefix is by default `url` without its scheme, and a colon, so
    that ids of two issuers are never equal. `name` and `team` are claims too, and `metadata` those that are copied.
    Without `grants` every model is allowed. With them, the first one whose role is among the claim `roles` (a list, or
    a string with blanks between roles) gives the models and the limits, and a caller without any of the roles may use
    no model. A claim inside another is written as a list of names.

    Instead of all of these, `principal` may be a function of the claims that returns a `Principal`, or `None` to refuse
    the token. Raises `OptionError`.
    """

    url: str
    audience: Sequence[str] | str
    jwks_url: str | None = None
    algorithms: Sequence[str] = ("RS256", "ES256")
    types: Sequence[str] = ("JWT", "at+jwt")
    leeway: float = 60.0
    required: Mapping[str, object] = {}
    prefix: str | None = None
    id: ClaimPath = "sub"
    name: ClaimPath | None = None
    team: ClaimPath | None = None
    roles: ClaimPath | None = None
    grants: Sequence[Grant] = ()
    metadata: Sequence[str] = ()
    principal: Callable[[Claims], Principal | None] | None = None

    def __post_init__(self) -> None:
        """Check the options; lists become tuples, and what is left out is filled in."""
        check_document_url("url", self.url)
        if self.jwks_url is not None:
            check_document_url("jwks_url", self.jwks_url)
        audience = [self.audience] if isinstance(self.audience, str) else self.audience
        fixed = {
            "audience": _texts("audience", audience, _AUDIENCE_EXPECTED),
            "algorithms": _texts("algorithms", self.algorithms, f"a list of {one_of(ALGORITHMS)}", ALGORITHMS),
            "types": _texts("types", self.types, 'a list of token types, such as ["JWT", "at+jwt"]'),
            "metadata": check_texts("metadata", self.metadata, "a list of names of claims"),
            "grants": check_items("grants", self.grants, "a list of Grant", _check_grant),
            "prefix": f"{self.url.partition('://')[2]}:" if self.prefix is None else self.prefix,
        }
        for option, value in fixed.items():
            msgspec.structs.force_setattr(self, option, value)
        check_seconds("leeway", self.leeway, maximum=_MAX_LEEWAY, zero=True)
        _check_required(self.required)
        self._check_mapping()

    def _check_mapping(self) -> None:
        check_name("prefix", self.prefix)
        for option in ("id", "name", "team", "roles"):
            path: object = getattr(self, option)
            if path is not None or option == "id":
                _check_claim(option, path)
        if bool(self.grants) != (self.roles is not None):
            given, other = ("grants", "roles") if self.grants else ("roles", "grants")
            raise OptionError(given, f"meaningless without {other}", other=other)
        if self.principal is not None:
            check_function("principal", self.principal, "a function of the claims that returns a Principal", {})
            for option in ("name", "team", "roles", "metadata"):
                if getattr(self, option):
                    raise OptionError(option, "cannot be combined with principal", other="principal")

    def caller(self, claims: Claims) -> Principal | None:
        """The caller that the claims of a verified token describe; `None` if `principal` refuses it.

        Raises `ClaimError` for claims that are missing or of another type, and `OptionError` for a wrong result of
        `principal`.
        """
        for name, value in self.required.items():
            if not _is_one_of(claims.get(name), value):
                raise ClaimError(f"the required claim {key_text(name)} is missing, or has another value")
        if self.principal is not None:
            found = self.principal(claims)
            if found is not None:
                check_type("the result of principal()", found, Principal, "a Principal or None")
            return found
        return self._mapped(claims)

    def _mapped(self, claims: Claims) -> Principal:
        id_ = _text(claims, self.id)
        if not id_ or len(id_) > _LONGEST_ID:
            raise ClaimError(f"the claim {_shown(self.id)} is missing, or too long for an id")
        grant = self._grant(claims)
        try:
            return Principal(
                id=f"{self.prefix}{id_}",
                name=(_text(claims, self.name) if self.name else None) or "",
                team=(_text(claims, self.team) if self.team else None) or None,
                models=grant.models if grant else () if self.grants else ("*",),
                limits=grant.limits if grant else (),
                metadata={name: value for name in self.metadata if (value := _text(claims, name))},
            )
        except OptionError as error:  # a string that cannot be encoded
            raise ClaimError(str(error)) from None

    def _grant(self, claims: Claims) -> Grant | None:
        if self.roles is None:
            return None
        found = _find(claims, self.roles)
        roles = (found, *found.split()) if isinstance(found, str) else _items(found)
        return next((grant for grant in self.grants if grant.role in roles), None)


def _find(claims: Claims, path: ClaimPath) -> object:
    found: object = claims
    for name in (path,) if isinstance(path, str) else path:
        found = cast("Claims", found).get(name) if isinstance(found, dict) else None
    return found


def _text(claims: Claims, path: ClaimPath) -> str | None:
    """A claim as text. Raises `ClaimError` for one that is neither a string nor a whole number."""
    found = _find(claims, path)
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    raise ClaimError(f"the claim {_shown(path)} is neither a string nor a whole number")


def _is_one_of(found: object, wanted: object) -> bool:
    """Whether a claim, or an item of it, has the value that is wanted, or one of several; strings may be patterns."""
    return any(_is_like(item, value) for value in _items(wanted) for item in _items(found))


def _is_like(item: object, value: object) -> bool:
    if isinstance(value, str):
        return isinstance(item, str) and matches(value, item)
    return type(item) is type(value) and item == value  # true is not 1


def _items(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else (value,)


def _shown(path: ClaimPath) -> str:
    return ".".join(map(key_text, (path,) if isinstance(path, str) else path))


def _texts(option: str, value: object, expected: str, choices: Sequence[str] = ()) -> tuple[str, ...]:
    texts = check_texts(option, value, expected)
    if not texts:
        raise mismatch(option, expected, value)
    for text in texts:
        check_text(option, text, expected)
        if choices:
            check_choice(option, text, choices)
    return texts


def _check_claim(option: str, path: object) -> None:
    if isinstance(path, str):
        check_text(option, path, _CLAIM_EXPECTED)
    else:
        _texts(option, path, _CLAIM_EXPECTED)


def _check_required(required: object) -> None:
    check_type("required", required, Mapping, "a mapping of claims to the values that they must have")
    for name, wanted in cast("Mapping[str, object]", required).items():
        values = _items(wanted)
        if not values or not all(isinstance(value, str | int) for value in values):
            raise mismatch(f"required.{key_text(name)}", _VALUES_EXPECTED, wanted)


def _check_grant(option: str, grant: object) -> None:
    check_type(option, grant, Grant, "a Grant")
