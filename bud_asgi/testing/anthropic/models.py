"""The models of a stand-in, as `GET /v1/models` describes them ("List Models", "Get a Model")."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

Lifecycle = Literal["active", "deprecated", "retired"]
"""A `deprecated` model still answers; a request for a `retired` one gets 404."""

EPOCH = "1970-01-01T00:00:00Z"
"""The service's date for a model whose release date is unknown."""

_GENERATION = re.compile(r"claude-(?:opus|sonnet|haiku|fable|mythos)-(\d+)(?:-(\d{1,2}))?(?:-|@|$)")
_LINE = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model with the fields of the service's `ModelInfo`. Dates are RFC 3339."""

    id: str
    display_name: str
    created_at: str = EPOCH
    lifecycle: Lifecycle = "active"
    deprecated_at: str | None = None
    retires_at: str | None = None
    line: str | None = None
    max_input_tokens: int | None = None
    """The context window."""
    max_tokens: int | None = None
    """The largest `max_tokens` of a request."""
    capabilities: Mapping[str, Any] | None = None
    allowed_fallback_models: tuple[str, ...] = ()
    """Only in the beta form of the response."""
    aliases: tuple[str, ...] = ()
    """Other names that requests may use for it. They are not listed."""


def generation(model: str) -> tuple[int, int]:
    """Return a model's generation, such as (5, 0) for `claude-opus-5`; (0, 0) for a name without one."""
    found = _GENERATION.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def model(name: str, created: str = "1970-01-01", **changes: Any) -> Model:
    """Make a model from its id; what its name does not show are defaults. `changes` are other fields of `Model`."""
    line = _LINE.match(name)
    undated = re.sub(r"-\d{8}$", "", name)
    title = re.sub(r"(\d)-(?=\d)", r"\1.", undated).replace("-", " ").title()
    large = generation(name) >= (4, 6)
    fields: dict[str, Any] = {
        "id": name,
        "display_name": title,
        "created_at": f"{created}T00:00:00Z",
        "line": line[1] if line else None,
        "max_input_tokens": 1_000_000 if large else 200_000,
        "max_tokens": 128_000 if large else 64_000,
        "capabilities": _capabilities(generation(name)),
        "aliases": (undated,) if undated != name else (),
    }
    return Model(**{**fields, **changes})


def _capabilities(generation: tuple[int, int]) -> Mapping[str, Any]:
    def supported(**features: bool) -> dict[str, Any]:
        return {"supported": True, **{name: {"supported": value} for name, value in features.items()}}

    adaptive, newer = generation >= (4, 6), generation >= (4, 7)
    simple = ("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs")
    thinking = supported(enabled=not newer, adaptive=adaptive, disabled=True, between_tools=generation >= (5, 5))
    edits = supported(clear_tool_uses_20250919=True, clear_thinking_20251015=True, compact_20260112=adaptive)
    return {
        **{name: supported() for name in simple},
        "context_management": edits,
        "effort": supported(low=True, medium=True, high=True, max=adaptive, xhigh=newer),
        "server_tools": supported(code_execution=True, web_search=True),
        "thinking": {"supported": True, "types": {name: thinking[name] for name in thinking if name != "supported"}},
    }


MODELS: tuple[Model, ...] = (
    model("claude-opus-5-5", "2026-09-22", allowed_fallback_models=("claude-opus-5", "claude-sonnet-5-5")),
    model("claude-sonnet-5-5", "2026-09-22"),
    model("claude-haiku-5-5", "2026-10-06"),
    model("claude-opus-5", "2026-07-14", allowed_fallback_models=("claude-opus-4-8",)),
    model("claude-sonnet-5", "2026-07-14"),
    model("claude-opus-4-8", "2026-05-26"),
    model("claude-opus-4-7", "2026-04-16"),
    model("claude-sonnet-4-6", "2026-02-17"),
    model("claude-opus-4-6", "2026-02-04"),
    model("claude-opus-4-5-20251101", "2025-11-24"),
    model("claude-haiku-4-5-20251001", "2025-10-15"),
    model(
        "claude-sonnet-4-5-20250929",
        "2025-09-29",
        lifecycle="deprecated",
        deprecated_at="2026-08-01T00:00:00Z",
        retires_at="2026-11-30T00:00:00Z",
    ),
    model(
        "claude-3-5-sonnet-20241022",
        "2024-10-22",
        line="sonnet",
        max_tokens=8192,
        capabilities=None,
        lifecycle="retired",
        deprecated_at="2025-08-13T00:00:00Z",
        retires_at="2025-10-28T00:00:00Z",
    ),
)
"""The models that a stand-in lists by default. An example: the dates of the newer ones are made up."""


def catalogue(given: Iterable[str | Model] | None) -> tuple[Model, ...]:
    """Return the models to list, newest first; a string is the id of a model."""
    listed = MODELS if given is None else [model(one) if isinstance(one, str) else one for one in given]
    return tuple(sorted(sorted(listed, key=lambda one: one.id), key=lambda one: one.created_at, reverse=True))


def callable_names(models: Iterable[Model]) -> frozenset[str]:
    """Return the names that an inference request may use: ids and aliases of models that are not retired."""
    return frozenset(name for one in models if one.lifecycle != "retired" for name in (one.id, *one.aliases))


_RETIRED = frozenset(name for one in MODELS if one.lifecycle == "retired" for name in (one.id, *one.aliases))


def is_known(name: str, known: Collection[str] | None) -> bool:
    """Whether an inference request may use this name.

    If `known` is `None`, all names are allowed except those of retired models and those with "does-not-exist" in them.
    """
    return "does-not-exist" not in name and name not in _RETIRED if known is None else name in known


def find(models: Iterable[Model], name: str) -> Model | None:
    """Return the model with this id or alias, retired or not; `None` if there is none."""
    return next((one for one in models if name in (one.id, *one.aliases)), None)


class ListQuery(msgspec.Struct, frozen=True):
    """The query of `GET /v1/models`, with at most one of the two cursors."""

    limit: int = 20
    after_id: str | None = None
    before_id: str | None = None
    lifecycle: tuple[str, ...] = ("active", "deprecated")


def page(models: Sequence[Model], query: ListQuery, *, beta: bool) -> dict[str, Any]:
    """Build the response to a list request. With `before_id`, it is the page that ends before that model."""
    ids = [one.id for one in models]
    start = ids.index(query.after_id) + 1 if query.after_id in ids else 0
    stop = ids.index(query.before_id) if query.before_id in ids else len(ids)
    matching = [one for one in models[start:stop] if one.lifecycle in query.lifecycle]
    shown = matching[-query.limit :] if query.before_id else matching[: query.limit]
    return {
        "data": [info(one, beta=beta) for one in shown],
        "has_more": len(shown) < len(matching),
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
    }


def info(one: Model, *, beta: bool) -> dict[str, Any]:
    """Build a `ModelInfo`; `beta` adds the fields of the beta form."""
    fields: dict[str, Any] = {"type": "model", **msgspec.to_builtins(one)}
    del fields["aliases"]
    if not beta:
        del fields["allowed_fallback_models"]
    return fields
