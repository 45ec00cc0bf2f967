"""The names of Claude models at the clouds: from the catalogue, else by the rule of their generation.

Vendor pages "Models overview", "Claude on Amazon Bedrock", "Claude on Vertex AI"; AWS, "InvokeModel" (`modelId`) and
"Supported Regions and models for inference profiles".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache

from bud_asgi.catalogue import catalogue, known_model

Generation = tuple[int, int]
"""A generation of models, as (5, 0) for Claude Opus 5."""

_WITHOUT_VERSION: Generation = (4, 6)
"""The first generation whose ids at the clouds have no date and no version."""

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
    """The generation of a model of Anthropic's by its name; `None` for a name that does not tell."""
    found = _NAMED.match(model) or _NUMBERED.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def geography(region: str) -> str:
    """The prefix of the inference profiles that keep a call near a region of AWS; `global` where there are none."""
    return next((prefix for pattern, prefix in _REGIONS if pattern.match(region)), "global")


def is_native(model: str) -> bool:
    """Whether a name is one of Bedrock's own: an ARN, a base id, or the id of an inference profile."""
    return model.startswith("arn:") or _NATIVE.fullmatch(model) is not None


@lru_cache(maxsize=1024)
def bedrock_base_id(model: str) -> str:
    """The id of the foundation model on Bedrock for Anthropic's own id or alias."""
    known = known_model(model)
    if known is not None and known.bedrock is not None:
        return known.bedrock
    named = generation(model)
    versioned = named is not None and named < _WITHOUT_VERSION and _DATED.fullmatch(model)
    return f"anthropic.{model}-v1:0" if versioned else f"anthropic.{model}"


@lru_cache(maxsize=1024)
def base_id_in(identifier: str) -> str | None:
    """The base id in an id or an ARN of Bedrock's; `None` for an ARN that hides the model, and for other names."""
    arn = _NAMING_ARN.fullmatch(identifier)
    native = _NATIVE.fullmatch(arn[1] if arn else identifier)
    return native[1] if native else None


@lru_cache(maxsize=1024)
def claude_name(base_id: str) -> str:
    """Anthropic's own id for a base id of Bedrock's."""
    return _by_base_id().get(base_id) or _VERSION.sub("", base_id.removeprefix("anthropic."))


@lru_cache(maxsize=1024)
def vertex_id(model: str) -> str:
    """The id on Vertex AI for Anthropic's own id or alias; a name with a version (`@`) is one already."""
    known = known_model(model)
    if known is not None and known.vertex is not None:
        return known.vertex
    named, dated = generation(model), _DATED.fullmatch(model)
    if dated is None or named is None or named >= _WITHOUT_VERSION:
        return model
    return f"{dated[1]}@{dated[2]}"


@cache
def _by_base_id() -> Mapping[str, str]:
    return {model.bedrock: model.id for model in catalogue().models if model.bedrock is not None}
