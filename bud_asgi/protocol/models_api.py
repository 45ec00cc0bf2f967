"""The Models API: model objects, queries and pages of a list (vendor pages "List Models", "Get a Model")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, get_args
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.malformed import MALFORMED_JSON

Lifecycle = Literal["active", "deprecated", "retired"]
"""The stage of a model's life."""

EPOCH = "1970-01-01T00:00:00Z"
"""The value that the service uses for an unknown date."""

MAX_QUERY = 8192
"""The number of bytes of a query string that are read; the rest is ignored."""

MAX_LISTING = 4 << 20
"""The largest model list that is read from an upstream, in bytes."""

_LIFECYCLES: tuple[str, ...] = get_args(Lifecycle)
_BETA_FIELDS = frozenset({"allowed_fallback_models"})
_DEFAULT_LIMIT = 20
_MAX_LIMIT = 1000


class Model(msgspec.Struct, frozen=True):
    """A model: its id and the raw JSON of every known field of its object."""

    id: str
    fields: Mapping[str, msgspec.Raw] = {}

    @property
    def lifecycle(self) -> str:
        """The stage of its life; `active` if unknown."""
        return _text(self.fields.get("lifecycle"), "active")

    @property
    def created_at(self) -> str:
        """The release date (RFC 3339); `EPOCH` if unknown."""
        return _text(self.fields.get("created_at"), EPOCH)

    def render(self, *, beta: bool = False) -> dict[str, msgspec.Raw]:
        """The object that the client receives: the known fields, with defaults for those that clients require.

        `beta` includes the fields that only the beta form of the API has.
        """
        defaults = {
            "type": _json("model"),
            "id": _json(self.id),
            "display_name": _json(self.id),
            "created_at": _json(EPOCH),
            "lifecycle": _json("active"),
        }
        known = {
            name: value
            for name, value in self.fields.items()
            if (beta or name not in _BETA_FIELDS) and not (name in defaults and bytes(value) == b"null")
        }
        return defaults | known | {"type": defaults["type"], "id": defaults["id"]}


class ListQuery(msgspec.Struct, frozen=True):
    """The part of a list that is requested."""

    limit: int = _DEFAULT_LIMIT
    after_id: str | None = None
    before_id: str | None = None
    lifecycle: tuple[str, ...] = ("active", "deprecated")
    beta: bool = False


class _Listing(msgspec.Struct, frozen=True):
    data: Annotated[list[dict[str, msgspec.Raw]], Meta(max_length=10_000)]


_decode_listing = msgspec.json.Decoder(_Listing).decode


def read_listing(body: bytes) -> list[Model] | None:
    """The models in an upstream's list, in its order; `None` if the body is not a model list."""
    try:
        entries = _decode_listing(body.decode()).data  # as str: msgspec does not check raw bytes for UTF-8
        return [Model(msgspec.json.decode(entry["id"], type=str), entry) for entry in entries if "id" in entry]
    except MALFORMED_JSON:
        return None


def read_query(query: bytes) -> ListQuery:
    """Parse the query string of a list. Raises `InvalidRequest`, naming the parameter."""
    given: dict[str, str] = {}
    lifecycle: list[str] = []
    for name, value in parse_qsl(query[:MAX_QUERY].decode("latin-1"), keep_blank_values=True):
        if name in {"lifecycle", "lifecycle[]"}:
            lifecycle.append(value)
        else:
            given[name] = value
    if len(lifecycle) > len(_LIFECYCLES):
        raise InvalidRequest(f"lifecycle: List should have at most {len(_LIFECYCLES)} items")
    for index, value in enumerate(lifecycle):
        if value not in _LIFECYCLES:
            raise InvalidRequest(f"lifecycle.{index}: Input should be 'active', 'deprecated' or 'retired'")
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
    """Encode one page of a list. Raises `InvalidRequest` for a cursor that is not in the list."""
    if query.before_id is not None:
        models = models[: _index("before_id", query.before_id, models)]
    elif query.after_id is not None:
        models = models[_index("after_id", query.after_id, models) + 1 :]
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


def _index(name: str, cursor: str, models: Sequence[Model]) -> int:
    for index, model in enumerate(models):
        if model.id == cursor:
            return index
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
    except MALFORMED_JSON:
        return default


def _json(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))
