"""Requests to the Models API, parsed and checked ("List Models", "Get a Model")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, unquote

from bud_asgi.testing.anthropic.errors import Rejected, invalid_request
from bud_asgi.testing.anthropic.models import ListQuery, Model, find
from bud_asgi.testing.server.received import Received

MODELS_PATH = b"/v1/models"
_LIFECYCLES = ("active", "deprecated", "retired")
_MAX_LIMIT = 1000


def is_models_request(received: Received) -> bool:
    """Whether the path is that of the list or of one model."""
    path = received.path
    return path == MODELS_PATH or (path.startswith(MODELS_PATH + b"/") and path.count(b"/") == 3)


def model_in_path(received: Received) -> str | None:
    """Return the model id in the path, decoded; `None` for the list."""
    name = received.path[len(MODELS_PATH) + 1 :]
    return unquote(name.decode("latin-1")) or None


def wants_beta(received: Received) -> bool:
    """Whether the beta form of the response is requested: `?beta=true`, or any flag in `anthropic-beta`."""
    return _query(received).get("beta") == ["true"] or any(received.values("anthropic-beta"))


def check_models(received: Received, models: Sequence[Model]) -> None:
    """Check the query, or that the model exists. Raises `Rejected`."""
    name = model_in_path(received)
    if name is None:
        parse_list_query(received, models)
    elif find(models, name) is None:
        raise Rejected(404, "not_found_error", f"model: {name}")


def parse_list_query(received: Received, models: Sequence[Model]) -> ListQuery:
    """Parse the query of a list request. Raises `Rejected`; the errors for cursors are worded by the stand-in."""
    query = _query(received)
    after, before = _last(query, "after_id"), _last(query, "before_id")
    if after is not None and before is not None:
        raise invalid_request("before_id: may not be used together with after_id")
    for name, cursor in (("after_id", after), ("before_id", before)):
        if cursor is not None and all(one.id != cursor for one in models):
            raise invalid_request(f"{name}: `{cursor}` is not the id of a model")
    return ListQuery(_limit(query), after, before, _lifecycle(query))


def _limit(query: Mapping[str, list[str]]) -> int:
    given = _last(query, "limit")
    if given is None:
        return ListQuery().limit
    if not given.removeprefix("-").isdecimal():
        raise invalid_request("limit: Input should be a valid integer, unable to parse string as an integer")
    limit = int(given)
    if limit < 1:
        raise invalid_request("limit: Input should be greater than or equal to 1")
    if limit > _MAX_LIMIT:
        raise invalid_request(f"limit: Input should be less than or equal to {_MAX_LIMIT}")
    return limit


def _lifecycle(query: Mapping[str, list[str]]) -> tuple[str, ...]:
    given = query.get("lifecycle[]", [])
    if len(given) > len(_LIFECYCLES):
        raise invalid_request(f"lifecycle: List should have at most 3 items after validation, not {len(given)}")
    for n, value in enumerate(given):
        if value not in _LIFECYCLES:
            raise invalid_request(f"lifecycle.{n}: Input should be 'active', 'deprecated' or 'retired'")
    return tuple(given) or ListQuery().lifecycle


def _query(received: Received) -> dict[str, list[str]]:
    return parse_qs(received.target.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)


def _last(query: Mapping[str, list[str]], name: str) -> str | None:
    values = query.get(name, [])
    return values[-1] if values else None
