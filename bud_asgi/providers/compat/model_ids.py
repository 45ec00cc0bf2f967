"""The ids of Claude models on the clouds: from the catalogue, otherwise by the naming rule of their generation.

Vendor pages "Models overview", "Claude on Amazon Bedrock", "Claude on Vertex AI"; AWS, "InvokeModel" (`modelId`) and
"Supported Regions and models for inference profiles".
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

_NAMED = re.compile(r"claude-[a-z]+-(\d{1,2})(?:-(\d{1,2}))?(?:[-@]|$)")
_NUMBERED = re.compile(r"claude-(\d)(?:-(\d))?-[a-z]+")  # before Claude 4
_DATED = re.compile(r"(.+)-(20\d{6})")
_NATIVE = re.compile(r"(?:[a-z-]{1,20}\.)?(anthropic\.[a-z0-9][a-z0-9.:-]*)")
_VERSION = re.compile(r"(?:-v\d+)?(?::\w+)*$")
_NAMING_ARN = re.compile(r"arn:[a-z-]+:bedrock:[a-z0-9-]*:\d*:(?:foundation-model|inference-profile)/(.+)")
_REGIONS = (
    (re.compile(r"us-gov-"), "us-gov"),
    (re.compile(r"us-"), "us"),
    (re.compile(r"eu-"), "eu"),
    (re.compile(r"ap-northeast-[13]$"), "jp"),
    (re.compile(r"ap-southeast-[24]$"), "au"),
    (re.compile(r"ap-"), "apac"),
)


@lru_cache(maxsize=1024)
def generation(model: str) -> Generation | None:
    """Return the generation in Anthropic's name of a model; `None` if the name does not contain one."""
    found = _NAMED.match(model) or _NUMBERED.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def geography(region: str) -> str:
    """Return the prefix of the inference profiles for the geography of an AWS region; `global` if it has none."""
    return next((prefix for pattern, prefix in _REGIONS if pattern.match(region)), "global")


def is_native(model: str) -> bool:
    """Return whether a name is a Bedrock identifier: an ARN, a base id, or the id of an inference profile."""
    return model.startswith("arn:") or _NATIVE.fullmatch(model) is not None


@lru_cache(maxsize=1024)
def bedrock_base_id(model: str) -> str:
    """Return the id of the foundation model on Bedrock for Anthropic's id or alias."""
    known = known_model(model)
    if known is not None and known.bedrock is not None:
        return known.bedrock
    model_generation = generation(model)
    versioned = model_generation is not None and model_generation < _WITHOUT_VERSION and _DATED.fullmatch(model)
    return f"anthropic.{model}-v1:0" if versioned else f"anthropic.{model}"


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
    """Return the id on Vertex AI for Anthropic's id or alias; an id with a version (`@`) is returned unchanged."""
    known = known_model(model)
    if known is not None and known.vertex is not None:
        return known.vertex
    model_generation, dated = generation(model), _DATED.fullmatch(model)
    if dated is None or model_generation is None or model_generation >= _WITHOUT_VERSION:
        return model
    return f"{dated[1]}@{dated[2]}"


@cache
def _by_base_id() -> Mapping[str, str]:
    return {model.bedrock: model.id for model in catalogue().models if model.bedrock is not None}
