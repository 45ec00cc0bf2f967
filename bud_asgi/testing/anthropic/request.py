"""What the service refuses, before it looks into the body: path, method, credential, version, beta flags.

Wordings are the service's own where they are known ("Errors", "Versions", and public reports); `judge_body` goes on.
Everything here reads the request by itself, so that it finds what a gateway's reading misses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from bud_asgi.testing.anthropic.body import judge_body
from bud_asgi.testing.anthropic.models import MODELS, Model, callable_names
from bud_asgi.testing.anthropic.models_request import is_models, judge_models
from bud_asgi.testing.anthropic.refusals import Refused, refuse
from bud_asgi.testing.server.received import Received

VERSIONS = frozenset({"2023-06-01", "2026-10-21"})
ROUTES = frozenset({b"/v1/messages", b"/v1/messages/count_tokens"})
"""What is asked with a body, by `POST`. The models are asked for by `GET`."""


class Rules(msgspec.Struct, frozen=True):
    """What this stand-in knows: its key, the models and beta flags to call (all if `None`), the models to list."""

    api_key: str
    models: Collection[str] | None = None
    betas: Collection[str] | None = None
    catalogue: Sequence[Model] = MODELS


def rules_for(api_key: str, models: Sequence[Model] | None, betas: Iterable[str] | None) -> Rules:
    """The rules of a stand-in that has these models and flags."""
    flags = None if betas is None else frozenset(betas)
    if models is None:
        return Rules(api_key=api_key, betas=flags)
    return Rules(api_key=api_key, models=callable_names(models), betas=flags, catalogue=models)


def refusal(received: Received, rules: Rules) -> Refused | None:
    """Why the service would refuse this request; `None` if it is valid."""
    try:
        _judge_route(received)
        judge_framing(received)
        _judge_credential(received, rules.api_key)
        version = _version(received)
        flags = _betas(received, rules.betas)
        if is_models(received):
            judge_models(received, rules.catalogue)
        else:
            judge_body(received, version=version, betas=flags, known=rules.models)
    except Refused as refused:
        return refused
    return None


def _judge_route(received: Received) -> None:
    listing = is_models(received)
    if not listing and received.path not in ROUTES:
        raise refuse(404, "not_found_error", "Not found")
    if received.method != (b"GET" if listing else b"POST"):
        raise refuse(405, "invalid_request_error", "Method Not Allowed")


def judge_framing(received: Received) -> None:
    """Fields of which there must be one at most; a second one is a gateway's mistake, whatever a server makes of it."""
    for name in ("host", "content-length", "transfer-encoding", "content-type", "content-encoding"):
        if len(received.values(name)) > 1:
            raise refuse(400, "invalid_request_error", f"{name}: came more than once")
    if received.header("host") is None:
        raise refuse(400, "invalid_request_error", "host: header is required")
    if received.method == b"GET":
        return
    kind = (received.header("content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise refuse(400, "invalid_request_error", "content-type: must be application/json")


def _judge_credential(received: Received, api_key: str) -> None:
    """Every credential that came must be the right one: a gateway that lets its client's through is found here."""
    keys, bearers = received.values("x-api-key"), received.values("authorization")
    if not keys and not bearers:
        raise refuse(401, "authentication_error", "x-api-key header is required")
    if keys and b", ".join(keys) != api_key.encode():
        raise refuse(401, "authentication_error", "invalid x-api-key")
    scheme, _, token = b", ".join(bearers).partition(b" ")
    if bearers and (scheme.lower() != b"bearer" or token.strip() != api_key.encode()):
        raise refuse(401, "authentication_error", "Invalid bearer token")


def _version(received: Received) -> str:
    values = received.values("anthropic-version")
    if not values:
        raise refuse(400, "invalid_request_error", "anthropic-version: header is required")
    version = b", ".join(values).decode("latin-1")
    if version not in VERSIONS:
        raise refuse(400, "invalid_request_error", f'anthropic-version: "{version}" is not a valid version')
    return version


def _betas(received: Received, known: Collection[str] | None) -> frozenset[str]:
    joined = b",".join(received.values("anthropic-beta")).decode("latin-1")
    flags = frozenset(flag.strip() for flag in joined.split(",") if flag.strip())
    if known is not None:
        judge_betas(flags, known)
    return flags


def judge_betas(flags: Collection[str], known: Collection[str]) -> None:
    """Refuse beta flags that are not known, naming them. Raises `Refused`."""
    unknown = sorted(set(flags).difference(known))
    if unknown:
        raise refuse(
            400,
            "invalid_request_error",
            f"Unexpected value(s) {', '.join(f'`{flag}`' for flag in unknown)} for the `anthropic-beta` header. "
            "Please consult our documentation at docs.claude.com or try again without the header.",
        )
