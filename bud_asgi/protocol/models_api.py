"""The Models API: what is said of a model, and pages of a list (vendor pages "List Models", "Get a Model")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, get_args
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from bud_asgi.protocol.errors import InvalidRequest

Lifecycle = Literal["active", "deprecated", "retired"]
"""What may be expected of a model."""

EPOCH = "1970-01-01T00:00:00Z"
"""Stands for a date that is not known, as the service does it."""

MAX_QUERY = 8192
"""Bytes of a query that are read."""

MAX_LISTING = 4 << 20
"""The largest list of an upstream's that is read, in bytes."""

_LIFECYCLES: tuple[str, ...] = get_args(Lifecycle)
_BETA_FACTS = frozenset({"allowed_fallback_models"})
_DEFAULT_LIMIT = 20
_MAX_LIMIT = 1000


class Model(msgspec.Struct, frozen=True):
    """What is known of a model: its id, and the JSON of every field that somebody told of it."""

    id: str
    facts: Mapping[str, msgspec.Raw] = {}

    @property
    def lifecycle(self) -> str:
        """What may be expected of it; `active` where nobody told."""
        return _text(self.facts.get("lifecycle"), "active")

    @property
    def created_at(self) -> str:
        """When it was released (RFC 3339); the epoch where nobody told."""
        return _text(self.facts.get("created_at"), EPOCH)

    def render(self, *, beta: bool = False) -> dict[str, msgspec.Raw]:
        """The object that a client gets: what was told, with what every client needs filled in.

        Some fields are told in the beta form alone.
        """
        needed = {
            "type": _json("model"),
            "id": _json(self.id),
            "display_name": _json(self.id),
            "created_at": _json(EPOCH),
            "lifecycle": _json("active"),
        }
        told = {
            name: fact
            for name, fact in self.facts.items()
            if (beta or name not in _BETA_FACTS) and not (name in needed and bytes(fact) == b"null")
        }
        return needed | told | {"type": needed["type"], "id": needed["id"]}


class ListQuery(msgspec.Struct, frozen=True):
    """Which part of a list is asked for."""

    limit: int = _DEFAULT_LIMIT
    after_id: str | None = None
    before_id: str | None = None
    lifecycle: tuple[str, ...] = ("active", "deprecated")
    beta: bool = False


class _Listing(msgspec.Struct, frozen=True):
    data: Annotated[list[dict[str, msgspec.Raw]], Meta(max_length=10_000)]


_decode_listing = msgspec.json.Decoder(_Listing).decode


def read_listing(body: bytes) -> list[Model] | None:
    """The models in an upstream's list, in its order; `None` if it is none."""
    try:
        entries = _decode_listing(body.decode()).data  # of a fact, the decoder would not look at the characters
        return [Model(msgspec.json.decode(entry["id"], type=str), entry) for entry in entries if "id" in entry]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_query(query: bytes) -> ListQuery:
    """The query of a list. Raises `InvalidRequest`, naming the parameter."""
    given: dict[str, str] = {}
    lifecycle: list[str] = []
    for name, value in parse_qsl(query[:MAX_QUERY].decode("latin-1"), keep_blank_values=True):
        if name in {"lifecycle", "lifecycle[]"}:
            lifecycle.append(value)
        else:
            given[name] = value
    if len(lifecycle) > len(_LIFECYCLES):
        raise InvalidRequest(f"lifecycle: List should have at most {len(_LIFECYCLES)} items")
    for place, value in enumerate(lifecycle):
        if value not in _LIFECYCLES:
            raise InvalidRequest(f"lifecycle.{place}: Input should be 'active', 'deprecated' or 'retired'")
    if "after_id" in given and "before_id" in given:
        raise InvalidRequest("after_id: only one of after_id and before_id may be given")
    return ListQuery(
        limit=_limit(given.get("limit")),
        after_id=given.get("after_id"),
        before_id=given.get("before_id"),
        lifecycle=tuple(lifecycle) or ListQuery().lifecycle,
        beta=given.get("beta") == "true",
    )


def page(models: Sequence[Model], query: ListQuery) -> bytes:
    """The JSON of one page of a list. Raises `InvalidRequest` for a cursor that is not in it."""
    if query.before_id is not None:
        models = models[: _place("before_id", query.before_id, models)]
    elif query.after_id is not None:
        models = models[_place("after_id", query.after_id, models) + 1 :]
    listed = [model for model in models if model.lifecycle in query.lifecycle]
    chosen = listed[-query.limit :] if query.before_id is not None else listed[: query.limit]
    return msgspec.json.encode(
        {
            "data": [model.render(beta=query.beta) for model in chosen],
            "has_more": len(listed) > len(chosen),
            "first_id": chosen[0].id if chosen else None,
            "last_id": chosen[-1].id if chosen else None,
        }
    )


def _place(name: str, cursor: str, models: Sequence[Model]) -> int:
    for place, model in enumerate(models):
        if model.id == cursor:
            return place
    raise InvalidRequest(f"{name}: there is no model with this id")


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 20:
        raise InvalidRequest("limit: Input should be a valid integer, unable to parse string as an integer")
    limit = int(text)
    if limit < 1:
        raise InvalidRequest("limit: Input should be greater than or equal to 1")
    if limit > _MAX_LIMIT:
        raise InvalidRequest(f"limit: Input should be less than or equal to {_MAX_LIMIT}")
    return limit


def _text(raw: msgspec.Raw | None, default: str) -> str:
    try:
        return msgspec.json.decode(raw, type=str) if raw is not None else default
    except (msgspec.DecodeError, UnicodeDecodeError):
        return default


def _json(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))
