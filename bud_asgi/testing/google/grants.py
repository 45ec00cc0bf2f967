"""Checks of requests for tokens: OAuth's token endpoint, the token exchange, impersonation.

Sources: "Using OAuth 2.0 for Server to Server Applications", "Workload Identity Federation", "Service Account
Credentials API". Each `grant_` function checks one request and returns what to grant. Raises `GoogleRejected`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from bud_asgi.testing.google.accounts import Federation, ServiceAccount
from bud_asgi.testing.google.assertion import verify_assertion
from bud_asgi.testing.google.errors import GoogleError, GoogleRejected, error_info, oauth_rejected
from bud_asgi.testing.google.tokens import CLOUD_PLATFORM, Token
from bud_asgi.testing.server.received import Received

IAM = "https://www.googleapis.com/auth/iam"
"""The scope of the IAM APIs alone."""
MAX_LIFETIME = 3600
"""The longest lifetime of an impersonated token, in seconds."""

_ASSERTION = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 (a name)
_SCOPE = re.compile(r"https://www\.googleapis\.com/auth/[a-z._-]+|openid|email|profile")
_LIFETIME = re.compile(r"(\d+)s")


class Grant(msgspec.Struct, frozen=True):
    """What a request is granted: a token of this principal. `lifetime` is the longest it requested, in seconds."""

    principal: str
    scopes: tuple[str, ...]
    lifetime: int | None = None


def grant_for_assertion(received: Received, accounts: Mapping[str, ServiceAccount]) -> Grant:
    """OAuth's token endpoint: grant a token of the service account that signed the assertion."""
    form = _form(received)
    if form.get("grant_type") != _ASSERTION:
        raise oauth_rejected("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
    claims = verify_assertion(form.get("assertion", ""), accounts)
    return Grant(claims.account.email, _check_scopes(claims.scopes))


def grant_for_exchange(received: Received, federation: Federation) -> Grant:
    """The token exchange (RFC 8693): grant a Google token for another platform's token."""
    form = _form(received)
    if form.get("grant_type") != _EXCHANGE:
        raise oauth_rejected("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
    if form.get("requested_token_type") != _ACCESS_TOKEN:
        raise oauth_rejected("invalid_request", 'Invalid value for "requested_token_type".')
    if form.get("audience") != federation.audience:
        raise oauth_rejected(
            "invalid_target",
            'The target service indicated by the "audience" parameters is invalid. This might either be because the '
            "pool or provider is disabled or deleted or because it doesn't exist.",
        )
    if form.get("subject_token_type") != federation.subject_token_type:
        raise oauth_rejected("invalid_request", 'Invalid value for "subject_token_type".')
    if form.get("subject_token") != federation.subject_token:
        raise oauth_rejected("invalid_grant", "The subject token is not valid.")
    scopes = tuple(form.get("scope", "").split())
    if not scopes:
        raise oauth_rejected("invalid_scope", "Empty or missing scope not allowed.")
    return Grant(federation.principal, _check_scopes(scopes))


def grant_for_impersonation(received: Received, email: str, caller: Token, allowed: Collection[str]) -> Grant:
    """`generateAccessToken`: grant a token of the account `email` if the caller is one of `allowed`."""
    if not {CLOUD_PLATFORM, IAM}.intersection(caller.scopes):
        scopes = error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", service="iamcredentials.googleapis.com")
        raise _api_rejected("PERMISSION_DENIED", "Request had insufficient authentication scopes.", scopes)
    if caller.principal not in allowed:
        permission = "iam.serviceAccounts.getAccessToken"
        denied = error_info("IAM_PERMISSION_DENIED", "iam.googleapis.com", permission=permission)
        message = f"Permission '{permission}' denied on resource (or it may not exist)."
        raise _api_rejected("PERMISSION_DENIED", message, denied)
    fields = _fields(received)
    scopes = fields.get("scope")
    if not isinstance(scopes, list) or not scopes:
        raise _api_rejected("INVALID_ARGUMENT", "Request contains an invalid argument: scope")
    lifetime = _LIFETIME.fullmatch(str(fields.get("lifetime", f"{MAX_LIFETIME}s")))
    if lifetime is None or not 0 < int(lifetime[1]) <= MAX_LIFETIME:
        raise _api_rejected(
            "INVALID_ARGUMENT", f"The lifetime of the token must be between 1 and {MAX_LIFETIME} seconds."
        )
    return Grant(email, tuple(str(scope) for scope in cast("list[object]", scopes)), int(lifetime[1]))


def bearer_token(received: Received) -> str:
    """Return the request's bearer token; empty if it has none, or more than one credential."""
    values = received.values("authorization")
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return token.decode("latin-1") if scheme.lower() == b"bearer" else ""


def _check_scopes(scopes: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_SCOPE.fullmatch(scope) for scope in scopes):
        raise oauth_rejected("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
    return scopes


def _form(received: Received) -> Mapping[str, str]:
    kind = b",".join(received.values("content-type")).partition(b";")[0].strip()
    pairs = parse_qsl(received.body.decode("latin-1"), keep_blank_values=True)
    if kind != b"application/x-www-form-urlencoded" or len({name for name, _ in pairs}) < len(pairs):
        raise oauth_rejected("invalid_request", "Bad Request")
    return dict(pairs)


def _fields(received: Received) -> Mapping[str, Any]:
    try:
        decoded: object = json.loads(received.body)
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise _api_rejected("INVALID_ARGUMENT", "Invalid JSON payload received.")
    return cast("dict[str, Any]", decoded)


def _api_rejected(status: str, message: str, *details: Mapping[str, Any]) -> GoogleRejected:
    return GoogleRejected(message, GoogleError(status, message, details).reply())
