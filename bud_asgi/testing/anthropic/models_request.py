"""What the service refuses of `GET /v1/models` and `GET /v1/models/{id}` ("List Models", "Get a Model")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, unquote

from bud_asgi.testing.anthropic.models import Listing, Model, find
from bud_asgi.testing.anthropic.refusals import invalid, refuse
from bud_asgi.testing.server.received import Received

MODELS_PATH = b"/v1/models"
_LIFECYCLES = ("active", "deprecated", "retired")
_MOST = 1000


def is_models(received: Received) -> bool:
    """Whether the path is that of the listing or of one model."""
    path = received.path
    return path == MODELS_PATH or (path.startswith(MODELS_PATH + b"/") and path.count(b"/") == 3)


def named_model(received: Received) -> str | None:
    """The id in the path, decoded; `None` for the listing."""
    name = received.path[len(MODELS_PATH) + 1 :]
    return unquote(name.decode("latin-1")) or None


def asked_beta(received: Received) -> bool:
    """Whether the beta form of the answer is asked for: `?beta=true`, or any flag in `anthropic-beta`."""
    return _query(received).get("beta") == ["true"] or any(received.values("anthropic-beta"))


def judge_models(received: Received, models: Sequence[Model]) -> None:
    """Refuse a bad query and an unknown model. Raises `Refused`."""
    name = named_model(received)
    if name is None:
        listing_of(received, models)
    elif find(models, name) is None:
        raise refuse(404, "not_found_error", f"model: {name}")


def listing_of(received: Received, models: Sequence[Model]) -> Listing:
    """What the query asks for. Raises `Refused`; the wordings for cursors are the stand-in's own."""
    query = _query(received)
    after, before = _one(query, "after_id"), _one(query, "before_id")
    if after is not None and before is not None:
        raise invalid("before_id: may not be used together with after_id")
    for name, cursor in (("after_id", after), ("before_id", before)):
        if cursor is not None and all(one.id != cursor for one in models):
            raise invalid(f"{name}: `{cursor}` is not the id of a model")
    return Listing(_limit(query), after, before, _lifecycle(query))


def _limit(query: Mapping[str, list[str]]) -> int:
    given = _one(query, "limit")
    if given is None:
        return Listing().limit
    if not given.removeprefix("-").isdecimal():
        raise invalid("limit: Input should be a valid integer, unable to parse string as an integer")
    limit = int(given)
    if limit < 1:
        raise invalid("limit: Input should be greater than or equal to 1")
    if limit > _MOST:
        raise invalid(f"limit: Input should be less than or equal to {_MOST}")
    return limit


def _lifecycle(query: Mapping[str, list[str]]) -> tuple[str, ...]:
    given = query.get("lifecycle[]", [])
    if len(given) > len(_LIFECYCLES):
        raise invalid(f"lifecycle: List should have at most 3 items after validation, not {len(given)}")
    for n, value in enumerate(given):
        if value not in _LIFECYCLES:
            raise invalid(f"lifecycle.{n}: Input should be 'active', 'deprecated' or 'retired'")
    return tuple(given) or Listing().lifecycle


def _query(received: Received) -> dict[str, list[str]]:
    return parse_qs(received.target.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)


def _one(query: Mapping[str, list[str]], name: str) -> str | None:
    values = query.get(name, [])
    return values[-1] if values else None
