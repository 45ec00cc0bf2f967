"""The Claude models that are known, with their id at each provider: read from the dated `data/models.json`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from bud_asgi.protocol.models_api import Lifecycle, Model

Service = Literal["anthropic", "bedrock", "vertex"]
"""Where a model may be served."""


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `alias` is its name without a date. An id at a provider is `None` where it is not served.

    The numbers are tokens. `bedrock` is the base id, to which the prefix of an inference profile is added.
    """

    id: str
    alias: str | None = None
    display_name: str
    line: str
    lifecycle: Lifecycle = "active"
    retires_at: str | None = None
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    anthropic: str | None = None
    bedrock: str | None = None
    vertex: str | None = None

    @property
    def model(self) -> Model:
        """It in the terms of the Models API."""
        told = ("display_name", "lifecycle", "line", "max_input_tokens", "max_tokens", "retires_at")
        return Model(self.id, {name: msgspec.Raw(msgspec.json.encode(getattr(self, name))) for name in told})


class Catalogue(msgspec.Struct, frozen=True):
    """All of them, the newest first, as they were known on a day (`as_of`)."""

    as_of: str
    models: tuple[KnownModel, ...]


@cache
def catalogue() -> Catalogue:
    """The catalogue, read on first use."""
    return msgspec.json.decode((files("bud_asgi") / "data" / "models.json").read_bytes(), type=Catalogue)


@cache
def _by_name() -> Mapping[str, KnownModel]:
    models = catalogue().models
    return {model.alias: model for model in models if model.alias} | {model.id: model for model in models}


def known_model(name: str) -> KnownModel | None:
    """The model of an id or an alias."""
    return _by_name().get(name)


@cache
def served_at(service: Service) -> tuple[str, ...]:
    """The ids of the models that a service has, the newest first."""
    return tuple(model.id for model in catalogue().models if getattr(model, service) is not None)
