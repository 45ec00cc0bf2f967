"""The credentials of a request: `Authorization: Bearer` and `x-api-key` (vendor page "API overview")."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal

from starlette.authentication import AuthCredentials

from bud_asgi.exchange import Principal
from bud_asgi.options import check_choice, check_texts, one_of
from bud_asgi.protocol.headers import Headers, one_credential

Authenticated = tuple[AuthCredentials, Principal]
"""A backend's result, in Starlette's terms: the scopes that a user has, and the user."""

Status = Literal["ready", "degraded", "unavailable"]
"""Whether a backend can authenticate: `degraded` if only those callers that it has seen lately."""

Credential = tuple[bytes, tuple[bytes, ...]]
"""A secret without its scheme, and the names of the headers that it came in."""

CREDENTIAL_HEADERS = ("authorization", "x-api-key")
"""The headers in which clients of the Messages API send a credential (vendor page "API overview")."""

_SCHEME = re.compile(rb"bearer +", re.IGNORECASE)
_BEARER, _API_KEY, _BOTH = (b"authorization",), (b"x-api-key",), (b"authorization", b"x-api-key")


def worst_of(statuses: Collection[Status]) -> Status:
    """The worst of several statuses; `ready` if there are none."""
    return "unavailable" if "unavailable" in statuses else "degraded" if "degraded" in statuses else "ready"


def authenticated(principal: Principal) -> Authenticated:
    """A backend's result for a principal."""
    return AuthCredentials(["authenticated"]), principal


def check_credential_headers(option: str, value: object) -> tuple[str, ...]:
    """Check for names of headers in which clients send a credential, and return them in lower case.

    Raises `OptionError`.
    """
    given = check_texts(option, value, f"names out of {one_of(CREDENTIAL_HEADERS)}")
    names = tuple(name.lower() for name in given)
    for name in names:
        check_choice(option, name, CREDENTIAL_HEADERS)
    return names


def credentials_of(headers: Headers) -> Sequence[Credential]:
    """The credentials of a request in the order in which they are tried: the bearer token first.

    A value that is in both headers, or twice in one of them, is one credential. Empty ones are left out, and so are
    other schemes than `Bearer`.
    """
    authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
    bearer = _bearer_token(one_credential(authorization)) if authorization else b""
    key = one_credential(api_key) if api_key else b""
    if not bearer:
        return ((key, _API_KEY),) if key else ()
    if not key:
        return ((bearer, _BEARER),)
    return ((bearer, _BOTH),) if bearer == key else ((bearer, _BEARER), (key, _API_KEY))


def refusal_words(headers: Headers, required: str) -> str:
    """The message for a request whose credentials are not valid; `required` if it has none."""
    authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
    if authorization and _bearer_token(one_credential(authorization)):
        return "Invalid bearer token"
    if api_key and one_credential(api_key):
        return "invalid x-api-key"
    return "Invalid authorization header" if authorization else required


def _bearer_token(authorization: bytes) -> bytes:
    scheme = _SCHEME.match(authorization)
    return authorization[scheme.end() :].strip() if scheme else b""
