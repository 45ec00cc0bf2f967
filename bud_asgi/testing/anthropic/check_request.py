"""Checks of a request as Anthropic's service makes them: path, method, credential, version, beta flags, then the body.

Wordings are the service's own where they are known ("Errors", "Versions", and public reports). The code shares nothing
with the gateway, so that it finds the gateway's mistakes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from bud_asgi.testing.anthropic.check_body import check_body
from bud_asgi.testing.anthropic.errors import Rejected
from bud_asgi.testing.anthropic.models import MODELS, Model, callable_names
from bud_asgi.testing.anthropic.models_request import check_models, is_models_request
from bud_asgi.testing.server.received import Received

VERSIONS = frozenset({"2023-06-01", "2026-10-21"})
ROUTES = frozenset({b"/v1/messages", b"/v1/messages/count_tokens"})
"""The paths of `POST` requests. The Models API uses `GET`."""


class Rules(msgspec.Struct, frozen=True):
    """What requests are checked against. `models`, `betas` and `signer` of `None` accept all.

    `catalogue` is what is listed. `signer` has signed the thinking blocks that are accepted.
    """

    api_key: str
    models: Collection[str] | None = None
    betas: Collection[str] | None = None
    catalogue: Sequence[Model] = MODELS
    signer: str | None = None


def make_rules(
    api_key: str, models: Sequence[Model] | None, betas: Iterable[str] | None, signer: str | None = None
) -> Rules:
    """Make the rules of a stand-in with these models, beta flags and signer of thinking blocks."""
    flags = None if betas is None else frozenset(betas)
    if models is None:
        return Rules(api_key=api_key, betas=flags, signer=signer)
    names = callable_names(models)
    return Rules(api_key=api_key, models=names, betas=flags, catalogue=models, signer=signer)


def check_request(received: Received, rules: Rules) -> None:
    """Check a complete request. Raises `Rejected`."""
    _check_route(received)
    check_framing(received)
    _check_credential(received, rules.api_key)
    version = _version(received)
    flags = _betas(received, rules.betas)
    if is_models_request(received):
        check_models(received, rules.catalogue)
    else:
        check_body(received, version=version, betas=flags, known=rules.models, signer=rules.signer)


def _check_route(received: Received) -> None:
    listing = is_models_request(received)
    if not listing and received.path not in ROUTES:
        raise Rejected(404, "not_found_error", "Not found")
    if received.method != (b"GET" if listing else b"POST"):
        raise Rejected(405, "invalid_request_error", "Method Not Allowed")


def check_framing(received: Received) -> None:
    """Check the header fields that may occur only once, `host` and `content-type`. Raises `Rejected`.

    Servers differ in what they make of a repeated field; sending one is always a gateway's mistake.
    """
    for name in ("host", "content-length", "transfer-encoding", "content-type", "content-encoding"):
        if len(received.values(name)) > 1:
            raise Rejected(400, "invalid_request_error", f"{name}: came more than once")
    if received.header("host") is None:
        raise Rejected(400, "invalid_request_error", "host: header is required")
    if received.method == b"GET":
        return
    kind = (received.header("content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Rejected(400, "invalid_request_error", "content-type: must be application/json")


def _check_credential(received: Received, api_key: str) -> None:
    """Check every credential that was sent, so that a client's credential forwarded beside ours is found."""
    keys, bearers = received.values("x-api-key"), received.values("authorization")
    if not keys and not bearers:
        raise Rejected(401, "authentication_error", "x-api-key header is required")
    if keys and b", ".join(keys) != api_key.encode():
        raise Rejected(401, "authentication_error", "invalid x-api-key")
    scheme, _, token = b", ".join(bearers).partition(b" ")
    if bearers and (scheme.lower() != b"bearer" or token.strip() != api_key.encode()):
        raise Rejected(401, "authentication_error", "Invalid bearer token")


def _version(received: Received) -> str:
    values = received.values("anthropic-version")
    if not values:
        raise Rejected(400, "invalid_request_error", "anthropic-version: header is required")
    version = b", ".join(values).decode("latin-1")
    if version not in VERSIONS:
        raise Rejected(400, "invalid_request_error", f'anthropic-version: "{version}" is not a valid version')
    return version


def _betas(received: Received, known: Collection[str] | None) -> frozenset[str]:
    joined = b",".join(received.values("anthropic-beta")).decode("latin-1")
    flags = frozenset(flag.strip() for flag in joined.split(",") if flag.strip())
    if known is not None:
        check_betas(flags, known)
    return flags


def check_betas(flags: Collection[str], known: Collection[str]) -> None:
    """Check that all beta flags are known. Raises `Rejected`, which names the unknown ones."""
    unknown = sorted(set(flags).difference(known))
    if unknown:
        raise Rejected(
            400,
            "invalid_request_error",
            f"Unexpected value(s) {', '.join(f'`{flag}`' for flag in unknown)} for the `anthropic-beta` header. "
            "Please consult our documentation at docs.claude.com or try again without the header.",
        )
