"""What Vertex AI refuses: first its front end, then the model layer, which is Anthropic's.

Sources: "Claude on Vertex AI", Google Cloud's "Use Claude models", and public reports. A wrong path gets a page, a
wrong caller, project or model gets Google's error object, a wrong body gets Anthropic's envelope.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from bud_asgi.testing.anthropic.body import decoded, judge_fields
from bud_asgi.testing.anthropic.checks import a_list, a_string, one_of, required
from bud_asgi.testing.anthropic.models import generation
from bud_asgi.testing.anthropic.refusals import invalid
from bud_asgi.testing.anthropic.request import judge_betas, judge_framing
from bud_asgi.testing.google.errors import GoogleError, GoogleRefused, google_html, streams
from bud_asgi.testing.google.grants import bearer_of
from bud_asgi.testing.google.tokens import CLOUD_PLATFORM, Token
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.vertex.errors import (
    Route,
    denied,
    not_found,
    route_of,
    scopes_insufficient,
    unauthenticated,
    user_project_denied,
)
from bud_asgi.testing.vertex.features import judge_features

if TYPE_CHECKING:
    from bud_asgi.testing.vertex import Vertex

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
"""The beta flags that it takes. One that it doesn't know fails the whole request."""
HEADER_ONLY = frozenset({"compact-2026-09-04", "inline-tools-2026-09-15"})
"""Those that it doesn't take in the body's list."""
COUNTING = frozenset({"compact-2026-09-04", "effort-2025-11-24", "mid-conversation-tool-changes-2026-07-01"})
"""Those that it takes where tokens are counted."""

_SYSTEM_PARAMETERS = {"$alt", "alt", "prettyPrint"}
_NAME = re.compile(r"claude-[a-z0-9-]+(?:@(?:\d{8}|default|latest))?")
_DATED = re.compile(r"-20\d{6}$")
_REGIONAL = (4, 6)
"""The newest generation that regional endpoints have; later ones are at `global`, `us` and `eu`."""


class _FrontEnd(Exception):
    """The front end refuses: in the shape that the method has."""

    def __init__(self, error: GoogleError) -> None:
        super().__init__(error.message)
        self.error = error


def judge(received: Received, vertex: Vertex) -> None:
    """Refuse the request if the service would. Raises `GoogleRefused` or `Refused`."""
    route = route_of(received)
    if route is None or received.method != b"POST":
        raise GoogleRefused("Not found", google_html(404))
    try:
        _judge_query(received)
        _judge_caller(received, vertex, route)
        _judge_place(vertex, route)
        if not route.counting:
            _judge_model(vertex, route, route.model)
        judge_framing(received)
        _judge_body(received, vertex, route)
    except _FrontEnd as refused:
        error = refused.error
        raise GoogleRefused(error.message, error.reply(listed=streams(received))) from None


def _judge_query(received: Received) -> None:
    query = received.target.partition(b"?")[2].decode("latin-1")
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name not in _SYSTEM_PARAMETERS:
            words = (
                f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter. '
                f"Field '{name}' could not be found in request message."
            )
            raise _FrontEnd(GoogleError("INVALID_ARGUMENT", words))


def _judge_caller(received: Received, vertex: Vertex, route: Route) -> None:
    """The token, its scope, the role, the quota project. Any other credential is its sender's mistake."""
    token = _token(received, vertex)
    if CLOUD_PLATFORM not in token.scopes:
        raise _FrontEnd(scopes_insufficient())
    if vertex.callers is not None and token.principal not in vertex.callers:
        raise _FrontEnd(denied(route.resource))
    for value in received.values("x-goog-user-project"):
        project = value.decode("latin-1")
        if project not in (vertex.project, vertex.number, *vertex.quota_projects):
            raise _FrontEnd(user_project_denied(project))


def _token(received: Received, vertex: Vertex) -> Token:
    if not received.values("authorization"):
        raise _FrontEnd(unauthenticated("CREDENTIALS_MISSING"))
    token = vertex.tokens.find(bearer_of(received))
    if token is None or received.values("x-api-key"):
        raise _FrontEnd(unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED"))
    if token.expired:
        raise _FrontEnd(unauthenticated("ACCESS_TOKEN_EXPIRED"))
    return token


def _judge_place(vertex: Vertex, route: Route) -> None:
    if route.project not in (vertex.project, vertex.number):
        raise _FrontEnd(denied(route.resource))
    known = vertex.counting_locations if route.counting else None
    if route.location not in (vertex.locations if known is None else known):
        raise _FrontEnd(not_found(route.resource))


def _judge_model(vertex: Vertex, route: Route, model: str) -> None:
    """A name that is known, of a model that this location has."""
    known = _is_claude(model) if vertex.models is None else model in vertex.models
    regional = "-" in route.location and not route.counting
    if not known or (regional and generation(model) > _REGIONAL):
        raise _FrontEnd(not_found(route.resource.replace("count-tokens", model)))


def _is_claude(model: str) -> bool:
    """Whether it is a name of Vertex AI's kind: a date stands behind `@`."""
    return "does-not-exist" not in model and bool(_NAME.fullmatch(model)) and not _DATED.search(model)


def _judge_body(received: Received, vertex: Vertex, route: Route) -> None:
    fields = dict(decoded(received))
    given = a_string(required(fields, "anthropic_version"), "anthropic_version")
    version = VERSIONS[one_of(given, VERSIONS, "anthropic_version")]
    model = _body_model(fields, vertex, route)
    betas = _betas(received, fields, vertex, route, model)
    _judge_stream(fields, route)
    judge_features(fields, model)
    stripped = {name: fields[name] for name in fields if name not in ("anthropic_version", "anthropic_beta")}
    asked = {**stripped, "model": model}
    judge_fields(asked, version=version, betas=betas, known=(model,), counting=route.counting)


def _body_model(fields: Mapping[str, Any], vertex: Vertex, route: Route) -> str:
    """The model, which stands in the path, but in the body where tokens are counted."""
    if not route.counting:
        if "model" in fields:
            raise invalid("model: Extra inputs are not permitted")
        return route.model
    model = a_string(required(fields, "model"), "model")
    if model.endswith(("@default", "@latest")):
        raise invalid(f"{model} is not supported for token counting")
    _judge_model(vertex, route, model)
    return model


def _betas(received: Received, fields: Mapping[str, Any], vertex: Vertex, route: Route, model: str) -> frozenset[str]:
    joined = b",".join(received.values("anthropic-beta")).decode("latin-1")
    told = frozenset(flag.strip() for flag in joined.split(",") if flag.strip())
    listed = frozenset(
        a_string(flag, "anthropic_beta") for flag in a_list(fields.get("anthropic_beta", []), "anthropic_beta")
    )
    known = frozenset(vertex.betas)
    if route.counting:
        known &= COUNTING
    elif generation(model) < (4, 5):
        known -= {"tool-search-tool-2025-10-19"}
    judge_betas(told, known)
    judge_betas(listed, known - HEADER_ONLY)
    return told | listed


def _judge_stream(fields: Mapping[str, Any], route: Route) -> None:
    """The method says whether the answer streams, and the body says the same; it is a mistake if they differ."""
    if route.counting:
        return
    if (fields.get("stream") is True) != (route.method == "streamRawPredict"):
        raise invalid(f"stream: Input should be {str(route.method == 'streamRawPredict').lower()} for {route.method}")
