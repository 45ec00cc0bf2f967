"""What Google's token services are asked for, judged: OAuth's endpoint, the token exchange, impersonation.

"Using OAuth 2.0 for Server to Server Applications", "Workload Identity Federation", "Service Account Credentials API".
Each function reads one request, and says what to grant or raises `GoogleRefused`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from bud_asgi.testing.google.accounts import Federation, ServiceAccount
from bud_asgi.testing.google.assertion import verified
from bud_asgi.testing.google.errors import GoogleError, GoogleRefused, no_grant, reason
from bud_asgi.testing.google.tokens import CLOUD_PLATFORM, Token
from bud_asgi.testing.server.received import Received

IAM = "https://www.googleapis.com/auth/iam"
"""The scope of the IAM APIs alone."""
LONGEST = 3600
"""The longest life of an impersonated token, in seconds."""

_ASSERTION = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 (a name)
_SCOPE = re.compile(r"https://www\.googleapis\.com/auth/[a-z._-]+|openid|email|profile")
_LIFETIME = re.compile(r"(\d+)s")


class Grant(msgspec.Struct, frozen=True):
    """What a request gets: a token for this principal. `lifetime` is what it asked for at most, in seconds."""

    principal: str
    scopes: tuple[str, ...]
    lifetime: int | None = None


def by_assertion(received: Received, accounts: Mapping[str, ServiceAccount]) -> Grant:
    """OAuth's token endpoint: a token for the service account that signed the assertion."""
    form = _form(received)
    if form.get("grant_type") != _ASSERTION:
        raise no_grant("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
    claims = verified(form.get("assertion", ""), accounts)
    return Grant(claims.account.email, _known(claims.scopes))


def by_exchange(received: Received, federation: Federation) -> Grant:
    """The token exchange (RFC 8693): another platform's token for one of Google's."""
    form = _form(received)
    if form.get("grant_type") != _EXCHANGE:
        raise no_grant("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
    if form.get("requested_token_type") != _ACCESS_TOKEN:
        raise no_grant("invalid_request", 'Invalid value for "requested_token_type".')
    if form.get("audience") != federation.audience:
        raise no_grant(
            "invalid_target",
            'The target service indicated by the "audience" parameters is invalid. This might either be because the '
            "pool or provider is disabled or deleted or because it doesn't exist.",
        )
    if form.get("subject_token_type") != federation.subject_token_type:
        raise no_grant("invalid_request", 'Invalid value for "subject_token_type".')
    if form.get("subject_token") != federation.subject_token:
        raise no_grant("invalid_grant", "The subject token is not valid.")
    scopes = tuple(form.get("scope", "").split())
    if not scopes:
        raise no_grant("invalid_scope", "Empty or missing scope not allowed.")
    return Grant(federation.principal, _known(scopes))


def by_impersonation(received: Received, email: str, caller: Token, allowed: Collection[str]) -> Grant:
    """`generateAccessToken`: a token of another account, for a caller that may become it (one of `allowed`)."""
    if not {CLOUD_PLATFORM, IAM}.intersection(caller.scopes):
        scopes = reason("ACCESS_TOKEN_SCOPE_INSUFFICIENT", service="iamcredentials.googleapis.com")
        raise _refused("PERMISSION_DENIED", "Request had insufficient authentication scopes.", scopes)
    if caller.principal not in allowed:
        permission = "iam.serviceAccounts.getAccessToken"
        denied = reason("IAM_PERMISSION_DENIED", "iam.googleapis.com", permission=permission)
        words = f"Permission '{permission}' denied on resource (or it may not exist)."
        raise _refused("PERMISSION_DENIED", words, denied)
    fields = _fields(received)
    scopes = fields.get("scope")
    if not isinstance(scopes, list) or not scopes:
        raise _refused("INVALID_ARGUMENT", "Request contains an invalid argument: scope")
    lifetime = _LIFETIME.fullmatch(str(fields.get("lifetime", f"{LONGEST}s")))
    if lifetime is None or not 0 < int(lifetime[1]) <= LONGEST:
        raise _refused("INVALID_ARGUMENT", f"The lifetime of the token must be between 1 and {LONGEST} seconds.")
    return Grant(email, tuple(str(scope) for scope in cast("list[object]", scopes)), int(lifetime[1]))


def bearer_of(received: Received) -> str:
    """The request's bearer token; empty unless there is exactly one credential, and a bearer token."""
    values = received.values("authorization")
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return token.decode("latin-1") if scheme.lower() == b"bearer" else ""


def _known(scopes: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_SCOPE.fullmatch(scope) for scope in scopes):
        raise no_grant("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
    return scopes


def _form(received: Received) -> Mapping[str, str]:
    kind = b",".join(received.values("content-type")).partition(b";")[0].strip()
    pairs = parse_qsl(received.body.decode("latin-1"), keep_blank_values=True)
    if kind != b"application/x-www-form-urlencoded" or len({name for name, _ in pairs}) < len(pairs):
        raise no_grant("invalid_request", "Bad Request")
    return dict(pairs)


def _fields(received: Received) -> Mapping[str, Any]:
    try:
        decoded: object = json.loads(received.body)
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise _refused("INVALID_ARGUMENT", "Invalid JSON payload received.")
    return cast("dict[str, Any]", decoded)


def _refused(status: str, message: str, *details: Mapping[str, Any]) -> GoogleRefused:
    return GoogleRefused(message, GoogleError(status, message, details).reply())
