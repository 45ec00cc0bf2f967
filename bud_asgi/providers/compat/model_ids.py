"""The ids of Claude models on the clouds: from the catalogue, otherwise by the naming rule of their generation.

Vendor pages "Models overview", "Model IDs and versioning", "Claude on Amazon Bedrock", "Claude on Vertex AI"; AWS,
"InvokeModel" (`modelId`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache

from bud_asgi.catalogue import catalogue, known_model

Generation = tuple[int, int]
"""A model generation, such as (5, 0) for Claude Opus 5."""

_WITHOUT_VERSION: Generation = (4, 6)
"""The first generation whose ids on the clouds have neither a date nor a version."""

_NAMED = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:-(\d{1,2}))?(?:[-@]|$)")
_NUMBERED = re.compile(r"claude-(\d)(?:-(\d))?-([a-z]+)")  # before Claude 4
_DATED = re.compile(r"(.+)-(20\d{6})")
_AT = re.compile(r"([a-z0-9-]+)@(20\d{6}|default|latest)")
_NATIVE = re.compile(r"(?:[a-z-]{1,20}\.)?(anthropic\.[a-z0-9][a-z0-9.:-]*)")
_PROFILE_ID = re.compile(
    r"(?:(?:global|us|eu|jp|apac|au|us-gov)\.)?(anthropic\.claude-[a-z0-9-]+?(?:-v\d{1,2}(?::\d{1,2})?)?)"
)
_VERSION = re.compile(r"(?:-v\d+)?(?::\w+)*$")
_NAMING_ARN = re.compile(r"arn:[a-z-]+:bedrock:[a-z0-9-]*:\d*:(?:foundation-model|inference-profile)/(.+)")


@lru_cache(maxsize=1024)
def generation(model: str) -> Generation | None:
    """Return the generation in Anthropic's name of a model; `None` if the name does not contain one."""
    if named := _NAMED.match(model):
        return (int(named[2]), int(named[3] or 0))
    numbered = _NUMBERED.match(model)
    return (int(numbered[1]), int(numbered[2] or 0)) if numbered else None


def line(model: str) -> str | None:
    """Return the line in Anthropic's name of a model, such as `opus`; `None` if the name does not contain one."""
    if named := _NAMED.match(model):
        return named[1]
    numbered = _NUMBERED.match(model)
    return numbered[3] if numbered else None


def is_native(model: str) -> bool:
    """Return whether a name is a Bedrock identifier: an ARN, a base id, or the id of an inference profile."""
    return model.startswith("arn:") or _NATIVE.fullmatch(model) is not None


@lru_cache(maxsize=1024)
def anthropic_id(model: str) -> str:
    """Return Anthropic's id for an id of Bedrock or Vertex AI; any other name unchanged.

    Exact forms only: a part that is thrown away must not contain anything that a client's pattern of models matches.
    """
    if profile := _PROFILE_ID.fullmatch(model):
        return claude_name(profile[1])
    if model in _by_vertex_id():
        return _by_vertex_id()[model]
    if at := _AT.fullmatch(model):
        return at[1] if at[2] in {"default", "latest"} else f"{at[1]}-{at[2]}"
    return model


@lru_cache(maxsize=1024)
def bedrock_base_id(model: str) -> str:
    """Return the id of the foundation model on Bedrock for Anthropic's id or alias, or for an id of Vertex AI."""
    name = anthropic_id(model)
    known = known_model(name)
    if known is not None and known.bedrock is not None:
        return known.bedrock
    model_generation = generation(name)
    versioned = model_generation is not None and model_generation < _WITHOUT_VERSION and _DATED.fullmatch(name)
    return f"anthropic.{name}-v1:0" if versioned else f"anthropic.{name}"


@lru_cache(maxsize=1024)
def base_id_in(identifier: str) -> str | None:
    """Return the base id in a Bedrock id or ARN; `None` for an ARN that does not name its model, and other names."""
    arn = _NAMING_ARN.fullmatch(identifier)
    native = _NATIVE.fullmatch(arn[1] if arn else identifier)
    return native[1] if native else None


@lru_cache(maxsize=1024)
def claude_name(base_id: str) -> str:
    """Return Anthropic's id for a base id on Bedrock."""
    return _by_base_id().get(base_id) or _VERSION.sub("", base_id.removeprefix("anthropic."))


@lru_cache(maxsize=1024)
def vertex_id(model: str) -> str:
    """Return the id on Vertex AI for Anthropic's id or alias, or for an id of Bedrock; one with `@` is unchanged."""
    if "@" in model:
        return model
    name = anthropic_id(model)
    known = known_model(name)
    if known is not None and known.vertex is not None:
        return known.vertex
    model_generation, dated = generation(name), _DATED.fullmatch(name)
    if dated is None or model_generation is None or model_generation >= _WITHOUT_VERSION:
        return name
    return f"{dated[1]}@{dated[2]}"


@cache
def _by_base_id() -> Mapping[str, str]:
    return {model.bedrock: model.id for model in catalogue().models if model.bedrock is not None}


@cache
def _by_vertex_id() -> Mapping[str, str]:
    return {model.vertex: model.id for model in catalogue().models if model.vertex is not None}
