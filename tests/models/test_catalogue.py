"""The catalogue: well-formed and consistent, found by id and alias, rendered as objects of the Models API."""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from importlib.resources import files

import pytest

from bud_asgi.catalogue import KnownModel, Service, catalogue, current_models, known_model, served_at
from bud_asgi.protocol.models_api import ListQuery, page

MODELS = catalogue().models
SERVICES: tuple[Service, ...] = ("anthropic", "bedrock", "vertex")
ORDER = [model.id for model in MODELS]


def test_it_is_dated() -> None:
    assert date.fromisoformat(catalogue().as_of) >= date(2026, 11, 23)


def test_it_is_read_once() -> None:
    assert catalogue() is catalogue()


def test_the_file_has_no_unknown_fields() -> None:
    raw = json.loads((files("bud_asgi") / "data" / "models.json").read_text())
    assert set(raw) == {"as_of", "models"}
    assert {name for entry in raw["models"] for name in entry} <= set(KnownModel.__struct_fields__)


def test_names_are_unique() -> None:
    names = [name for model in MODELS for name in (model.id, *model.aliases)]
    assert len(set(names)) == len(names)
    for service in SERVICES:
        assert len(set(served_at(service))) == len(served_at(service))


@pytest.mark.parametrize("model", current_models(), ids=lambda model: model.id)
def test_the_names_of_a_model_are_consistent(model: KnownModel) -> None:
    parts = re.fullmatch(r"claude-(?P<line>[a-z]+)-(?P<version>[\d-]+?|preview)(?P<date>-\d{8})?", model.id)
    assert parts is not None
    assert model.line == parts["line"]
    stem = model.id.removesuffix(parts["date"] or "")
    assert model.aliases in ({(stem,), (f"{stem}-0",)} if parts["date"] else {()})
    shown = parts["version"].replace("-", ".").capitalize()
    assert model.display_name == f"Claude {parts['line'].capitalize()} {shown}"
    assert model.anthropic in {None, model.id}
    assert model.bedrock is not None
    assert re.fullmatch(rf"anthropic\.{model.id}(-v1(:0)?)?", model.bedrock)
    assert (model.bedrock.endswith("-v1:0")) == (parts["date"] is not None)
    day = (parts["date"] or "")[1:]
    assert model.vertex in {None, f"{stem}@{day}" if day else model.id}


@pytest.mark.parametrize("model", MODELS, ids=ORDER)
def test_a_model_is_rendered_with_its_fields(model: KnownModel) -> None:
    (rendered,) = json.loads(page([model.model], ListQuery(lifecycle=("active", "deprecated", "retired"))))["data"]
    assert rendered == {
        "type": "model",
        "id": model.id,
        "created_at": "1970-01-01T00:00:00Z",
        "display_name": model.display_name,
        "lifecycle": model.lifecycle,
        "line": model.line,
        "max_input_tokens": model.max_input_tokens,
        "max_tokens": model.max_tokens,
        "retires_at": model.retires_at,
    }
    assert model.retires_at is None or datetime.fromisoformat(model.retires_at).tzinfo is not None
    assert (model.retires_at is None) == (model.lifecycle == "active")


def test_the_newest_of_a_line_comes_first() -> None:
    for line in {model.line for model in MODELS}:
        versions = [re.findall(r"-(\d{1,2})(?=-|$)", model.id) for model in current_models() if model.line == line]
        numbered = [tuple(map(int, version)) for version in versions if version]
        assert numbered == sorted(numbered, reverse=True), line


def test_a_model_is_found_by_its_id_and_its_alias_only() -> None:
    dated = known_model("claude-haiku-4-5")
    assert dated is not None
    assert (dated.id, dated.aliases) == ("claude-haiku-4-5-20251001", ("claude-haiku-4-5",))
    assert known_model(dated.id) is dated
    for name in (
        "",
        "claude-haiku",
        "claude-sonnet-4",
        "claude-haiku-4-5-20251002",
        "Claude-haiku-4-5",
        "claude-haiku-4-5@20251001",
        "*",
    ):
        assert known_model(name) is None
    assert known_model("anthropic.claude-opus-5") is None


@pytest.mark.parametrize("service", SERVICES)
def test_the_models_of_a_service_are_in_the_order_of_the_catalogue(service: Service) -> None:
    served = list(served_at(service))
    assert served == [name for name in ORDER if name in served]
    assert {"claude-opus-5-5", "claude-haiku-4-5-20251001"} <= set(served)


def test_a_retired_model_is_known_by_its_names_and_not_listed() -> None:
    retired = known_model("claude-3-7-sonnet-latest")
    assert retired is not None
    assert (retired.id, retired.lifecycle) == ("claude-3-7-sonnet-20250219", "retired")
    assert all(retired.id not in served_at(service) for service in SERVICES)


def test_a_model_is_listed_only_at_the_services_that_serve_it() -> None:
    assert "claude-opus-4-1-20250805" not in served_at("anthropic")
    assert "claude-opus-4-1-20250805" in served_at("bedrock")
    assert "claude-mythos-preview" not in served_at("vertex")
