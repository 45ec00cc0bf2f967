"""The models that a stand-in knows: what `GET /v1/models` tells of each ("List Models", "Get a Model")."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

Lifecycle = Literal["active", "deprecated", "retired"]
"""`deprecated` models still answer; to name a `retired` one is a 404."""

EPOCH = "1970-01-01T00:00:00Z"
"""The service's date for a model whose release date it doesn't know."""

_GENERATION = re.compile(r"claude-(?:opus|sonnet|haiku|fable|mythos)-(\d+)(?:-(\d{1,2}))?(?:-|@|$)")
_LINE = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model, as the service's `ModelInfo` tells it. Dates are RFC 3339."""

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
    """The largest `max_tokens`."""
    capabilities: Mapping[str, Any] | None = None
    allowed_fallback_models: tuple[str, ...] = ()
    """Told in the beta form of the answer only."""
    aliases: tuple[str, ...] = ()
    """Other names that requests may use for it; they aren't listed."""


def generation(model: str) -> tuple[int, int]:
    """A model's generation, as (5, 0) for `claude-opus-5`; (0, 0) for a name that says none."""
    found = _GENERATION.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def model(name: str, created: str = "1970-01-01", **changes: Any) -> Model:
    """A model by its id, the rest as its name tells. `changes` are other fields of `Model`."""
    line = _LINE.match(name)
    words = re.sub(r"-\d{8}$", "", name)
    title = re.sub(r"(\d)-(?=\d)", r"\1.", words).replace("-", " ").title()
    large = generation(name) >= (4, 6)
    facts: dict[str, Any] = {
        "id": name,
        "display_name": title,
        "created_at": f"{created}T00:00:00Z",
        "line": line[1] if line else None,
        "max_input_tokens": 1_000_000 if large else 200_000,
        "max_tokens": 128_000 if large else 64_000,
        "capabilities": _capabilities(generation(name)),
        "aliases": (words,) if words != name else (),
    }
    return Model(**{**facts, **changes})


def _capabilities(generation: tuple[int, int]) -> Mapping[str, Any]:
    def said(yes: bool = True, **more: bool) -> dict[str, Any]:
        return {"supported": yes, **{name: {"supported": value} for name, value in more.items()}}

    adaptive, newer = generation >= (4, 6), generation >= (4, 7)
    simple = ("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs")
    thinking = said(enabled=not newer, adaptive=adaptive, disabled=True, between_tools=generation >= (5, 5))
    edits = said(clear_tool_uses_20250919=True, clear_thinking_20251015=True, compact_20260112=adaptive)
    return {
        **{name: said() for name in simple},
        "context_management": edits,
        "effort": said(low=True, medium=True, high=True, max=adaptive, xhigh=newer),
        "server_tools": said(code_execution=True, web_search=True),
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
"""What a stand-in lists unless told. It is an example: the dates of the newer ones are its own."""


def catalogue(given: Iterable[str | Model] | None) -> tuple[Model, ...]:
    """The models to list, newest first; a string is a model of that id."""
    listed = MODELS if given is None else [model(one) if isinstance(one, str) else one for one in given]
    return tuple(sorted(sorted(listed, key=lambda one: one.id), key=lambda one: one.created_at, reverse=True))


def callable_names(models: Iterable[Model]) -> frozenset[str]:
    """The names that an inference request may use: ids and aliases of what isn't retired."""
    return frozenset(name for one in models if one.lifecycle != "retired" for name in (one.id, *one.aliases))


_RETIRED = frozenset(name for one in MODELS if one.lifecycle == "retired" for name in (one.id, *one.aliases))


def is_known(name: str, known: Collection[str] | None) -> bool:
    """Whether an inference request may name it; with `known` of `None` all may but `does-not-exist` and the retired."""
    return "does-not-exist" not in name and name not in _RETIRED if known is None else name in known


def find(models: Iterable[Model], name: str) -> Model | None:
    """The model of this id or alias; `None` if there is none. Retired ones are found."""
    return next((one for one in models if name in (one.id, *one.aliases)), None)


class Listing(msgspec.Struct, frozen=True):
    """What the query of `GET /v1/models` asks for; of the two cursors one at most."""

    limit: int = 20
    after_id: str | None = None
    before_id: str | None = None
    lifecycle: tuple[str, ...] = ("active", "deprecated")


def page(models: Sequence[Model], asked: Listing, *, beta: bool) -> dict[str, Any]:
    """The answer to a listing. With `before_id` it is the page just before that model, in the same order."""
    ids = [one.id for one in models]
    start = ids.index(asked.after_id) + 1 if asked.after_id in ids else 0
    stop = ids.index(asked.before_id) if asked.before_id in ids else len(ids)
    left = [one for one in models[start:stop] if one.lifecycle in asked.lifecycle]
    shown = left[-asked.limit :] if asked.before_id else left[: asked.limit]
    return {
        "data": [info(one, beta=beta) for one in shown],
        "has_more": len(shown) < len(left),
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
    }


def info(one: Model, *, beta: bool) -> dict[str, Any]:
    """A `ModelInfo`; `beta` adds what only the beta form tells."""
    told: dict[str, Any] = {"type": "model", **msgspec.to_builtins(one)}
    del told["aliases"]
    if not beta:
        del told["allowed_fallback_models"]
    return told
