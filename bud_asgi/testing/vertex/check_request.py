"""Checks of a request as Vertex AI makes them: first its front end, then the model layer, which is Anthropic's.

Sources: "Claude on Vertex AI", Google Cloud's "Use Claude models", and public reports. A wrong path is answered with an
HTML page, a wrong caller, project or model with Google's error object, a wrong body with Anthropic's envelope.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from bud_asgi.testing.anthropic.check_body import check_fields, decode_body
from bud_asgi.testing.anthropic.check_request import check_betas, check_framing
from bud_asgi.testing.anthropic.check_values import expect_list, expect_one_of, expect_string, require
from bud_asgi.testing.anthropic.errors import invalid_request
from bud_asgi.testing.anthropic.models import generation
from bud_asgi.testing.google.errors import GoogleError, GoogleRejected, google_html, is_streaming
from bud_asgi.testing.google.grants import bearer_token
from bud_asgi.testing.google.tokens import CLOUD_PLATFORM, Token
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.vertex.check_features import check_features
from bud_asgi.testing.vertex.errors import (
    access_denied,
    insufficient_scopes,
    model_not_found,
    unauthenticated,
    user_project_denied,
)
from bud_asgi.testing.vertex.route import Route, parse_route

if TYPE_CHECKING:
    from bud_asgi.testing.vertex.service import Vertex

VERSIONS = {"vertex-2023-10-16": "2023-06-01", "2026-10-21": "2026-10-21"}
"""The values of `anthropic_version`, with the version of the Messages API that each stands for."""
BETAS = frozenset(
    {
        "compact-2026-01-12",
        "compact-2026-09-04",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-1m-2025-08-07",
        "context-management-2025-06-27",
        "dangerous-tool-use-2026-09-03",
        "effort-2025-11-24",
        "inline-tools-2026-09-15",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-tool-changes-2026-07-01",
        "per-turn-control-2026-07-01",
        "thinking-binding-controls-2026-08-01",
        "thinking-display-updates-2026-08-18",
        "tool-search-tool-2025-10-19",
        "web-search-2025-03-05",
    }
)
"""The beta flags that Vertex AI accepts. An unknown one fails the request."""
HEADER_ONLY = frozenset({"compact-2026-09-04", "inline-tools-2026-09-15"})
"""Beta flags that it does not accept in the body's list."""
COUNTING = frozenset({"compact-2026-09-04", "effort-2025-11-24", "mid-conversation-tool-changes-2026-07-01"})
"""Beta flags that it accepts when counting tokens."""

_SYSTEM_PARAMETERS = {"$alt", "alt", "prettyPrint"}
_MODEL_NAME = re.compile(r"claude-[a-z0-9-]+(?:@(?:\d{8}|default|latest))?")
_DASHED_DATE = re.compile(r"-20\d{6}$")
_LAST_REGIONAL_GENERATION = (4, 6)
"""The newest generation in regional locations; later ones are only at `global`, `us` and `eu`."""


class _FrontEndError(Exception):
    """An error of the front end; its format depends on the method."""

    def __init__(self, error: GoogleError) -> None:
        super().__init__(error.message)
        self.error = error


def check_request(received: Received, vertex: Vertex) -> None:
    """Check a complete request. Raises `GoogleRejected` (front end) or `Rejected` (model layer)."""
    route = parse_route(received)
    if route is None or received.method != b"POST":
        raise GoogleRejected("Not found", google_html(404))
    try:
        _check_query(received)
        _check_caller(received, vertex, route)
        _check_location(vertex, route)
        if not route.counting:
            _check_model(vertex, route, route.model)
        check_framing(received)
        _check_body(received, vertex, route)
    except _FrontEndError as rejected:
        error = rejected.error
        raise GoogleRejected(error.message, error.reply(as_array=is_streaming(received))) from None


def _check_query(received: Received) -> None:
    query = received.target.partition(b"?")[2].decode("latin-1")
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name not in _SYSTEM_PARAMETERS:
            message = (
                f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter. '
                f"Field '{name}' could not be found in request message."
            )
            raise _FrontEndError(GoogleError("INVALID_ARGUMENT", message))


def _check_caller(received: Received, vertex: Vertex, route: Route) -> None:
    """Check the token, its scope, the role and the quota project. Other credentials are a gateway's mistake."""
    token = _token(received, vertex)
    if CLOUD_PLATFORM not in token.scopes:
        raise _FrontEndError(insufficient_scopes())
    if vertex.callers is not None and token.principal not in vertex.callers:
        raise _FrontEndError(access_denied(route.resource))
    for value in received.values("x-goog-user-project"):
        project = value.decode("latin-1")
        if project not in (vertex.project, vertex.number, *vertex.quota_projects):
            raise _FrontEndError(user_project_denied(project))


def _token(received: Received, vertex: Vertex) -> Token:
    if not received.values("authorization"):
        raise _FrontEndError(unauthenticated("CREDENTIALS_MISSING"))
    token = vertex.tokens.find(bearer_token(received))
    if token is None or received.values("x-api-key"):
        raise _FrontEndError(unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED"))
    if token.expired:
        raise _FrontEndError(unauthenticated("ACCESS_TOKEN_EXPIRED"))
    return token


def _check_location(vertex: Vertex, route: Route) -> None:
    if route.project not in (vertex.project, vertex.number):
        raise _FrontEndError(access_denied(route.resource))
    known = vertex.counting_locations if route.counting else None
    if route.location not in (vertex.locations if known is None else known):
        raise _FrontEndError(model_not_found(route.resource))


def _check_model(vertex: Vertex, route: Route, model: str) -> None:
    """Check that the name is known and that the location has the model."""
    known = _is_model_name(model) if vertex.models is None else model in vertex.models
    regional = "-" in route.location and not route.counting
    if not known or (regional and generation(model) > _LAST_REGIONAL_GENERATION):
        raise _FrontEndError(model_not_found(route.resource.replace("count-tokens", model)))


def _is_model_name(model: str) -> bool:
    """Whether it is a name in Vertex AI's form, which has `@` before the date."""
    return "does-not-exist" not in model and bool(_MODEL_NAME.fullmatch(model)) and not _DASHED_DATE.search(model)


def _check_body(received: Received, vertex: Vertex, route: Route) -> None:
    fields = dict(decode_body(received))
    value = expect_string(require(fields, "anthropic_version"), "anthropic_version")
    version = VERSIONS[expect_one_of(value, VERSIONS, "anthropic_version")]
    model = _body_model(fields, vertex, route)
    betas = _betas(received, fields, vertex, route, model)
    _check_stream(fields, route)
    check_features(fields, model)
    common = {name: fields[name] for name in fields if name not in ("anthropic_version", "anthropic_beta")}
    check_fields(
        {**common, "model": model},
        version=version,
        betas=betas,
        known=(model,),
        counting=route.counting,
        signer=vertex.signer,
    )


def _body_model(fields: Mapping[str, Any], vertex: Vertex, route: Route) -> str:
    """Return the model, which is in the path, or in the body when counting tokens."""
    if not route.counting:
        if "model" in fields:
            raise invalid_request("model: Extra inputs are not permitted")
        return route.model
    model = expect_string(require(fields, "model"), "model")
    if model.endswith(("@default", "@latest")):
        raise invalid_request(f"{model} is not supported for token counting")
    _check_model(vertex, route, model)
    return model


def _betas(received: Received, fields: Mapping[str, Any], vertex: Vertex, route: Route, model: str) -> frozenset[str]:
    joined = b",".join(received.values("anthropic-beta")).decode("latin-1")
    in_header = frozenset(flag.strip() for flag in joined.split(",") if flag.strip())
    in_body = frozenset(
        expect_string(flag, "anthropic_beta")
        for flag in expect_list(fields.get("anthropic_beta", []), "anthropic_beta")
    )
    known = frozenset(vertex.betas)
    if route.counting:
        known &= COUNTING
    elif generation(model) < (4, 5):
        known -= {"tool-search-tool-2025-10-19"}
    check_betas(in_header, known)
    check_betas(in_body, known - HEADER_ONLY)
    return in_header | in_body


def _check_stream(fields: Mapping[str, Any], route: Route) -> None:
    """Check that `stream` in the body agrees with the method."""
    if route.counting:
        return
    if (fields.get("stream") is True) != (route.method == "streamRawPredict"):
        raise invalid_request(
            f"stream: Input should be {str(route.method == 'streamRawPredict').lower()} for {route.method}"
        )
