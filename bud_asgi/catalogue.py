"""The catalogue of known Claude models, with their ids at each service: read from the dated `data/models.json`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from bud_asgi.protocol.models_api import Lifecycle, Model

Service = Literal["anthropic", "bedrock", "vertex"]
"""A service that serves models."""


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the catalogue.

    `aliases` are the other names that Anthropic's API has for it. The id at a service is `None` if the model is not
    served there; `bedrock` is the base id, to which the prefix of an inference profile is added. The limits are in
    tokens. A retired model is known for its names only: it is not listed.
    """

    id: str
    aliases: tuple[str, ...] = ()
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
        """The model as an object of the Models API."""
        names = ("display_name", "lifecycle", "line", "max_input_tokens", "max_tokens", "retires_at")
        return Model(self.id, {name: msgspec.Raw(msgspec.json.encode(getattr(self, name))) for name in names})


class Catalogue(msgspec.Struct, frozen=True):
    """All known models, newest first, as of the date `as_of`."""

    as_of: str
    models: tuple[KnownModel, ...]


@cache
def catalogue() -> Catalogue:
    """Load the catalogue; it is read once."""
    return msgspec.json.decode((files("bud_asgi") / "data" / "models.json").read_bytes(), type=Catalogue)


@cache
def _by_name() -> Mapping[str, KnownModel]:
    models = catalogue().models
    return {name: model for model in models for name in (model.id, *model.aliases)}


def known_model(name: str) -> KnownModel | None:
    """Find a model by its id or alias."""
    return _by_name().get(name)


@cache
def current_models() -> tuple[KnownModel, ...]:
    """The models that are not retired, newest first."""
    return tuple(model for model in catalogue().models if model.lifecycle != "retired")


@cache
def served_at(service: Service) -> tuple[str, ...]:
    """The ids of the current models that a service serves, newest first."""
    return tuple(model.id for model in current_models() if getattr(model, service) is not None)
