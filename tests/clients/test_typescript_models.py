"""The official TypeScript SDK and the gateway's Models API."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from clients_gateways import mounted
from clients_node import TypeScript
from support.calls import KEY

from bud_asgi import ApiKey, ApiKeys, Route, Target, hash_api_key
from bud_asgi.testing import ThreadedStandIn
from bud_asgi.testing.anthropic.models import MODELS


@pytest.fixture
def two(upstream: ThreadedStandIn) -> Generator[TypeScript]:
    """A gateway with two models, one of them under a custom name."""
    routes = [
        Route("claude-team", to=[Target("anthropic", "claude-opus-5-5")]),
        Route("claude-haiku-*", to=["anthropic"]),
    ]
    keys = ApiKeys([ApiKey(name="me", hash=hash_api_key(KEY), models=("claude-team", "claude-haiku-5-5"))])
    with mounted(upstream, routes=routes, auth=keys) as base_url:
        yield TypeScript(baseURL=base_url, apiKey=KEY)


def test_auto_pagination_returns_the_whole_list(sdk: TypeScript) -> None:
    models = sdk("models.list", {"limit": 1000})
    dates = [model["created_at"] for model in models]
    assert dates == sorted(dates, reverse=True)
    whole = [model["id"] for model in models]
    assert set(whole) == {model.id for model in MODELS if model.lifecycle != "retired"}
    seen = sdk("models.pages", {"limit": 5})
    assert seen["ids"] == whole
    assert len(seen["requests"]) == -(-len(whole) // 5) > 1
    assert set(seen["requests"][:-1]) == {5}
    assert sdk("models.betaList", {"limit": 7}) == whole


def test_the_page_before_a_model(sdk: TypeScript) -> None:
    whole = [model["id"] for model in sdk("models.list", {"limit": 1000})]
    before = [model["id"] for model in sdk("models.list", {"limit": 2, "before_id": whole[5]})]
    assert set(before) == set(whole[:5])


def test_lifecycle(sdk: TypeScript) -> None:
    assert {model["lifecycle"] for model in sdk("models.list", {"lifecycle": ["deprecated"]})} == {"deprecated"}
    assert "retired" not in {model["lifecycle"] for model in sdk("models.list", {})}


def test_a_key_lists_the_models_that_it_may_use(two: TypeScript) -> None:
    models = {model["id"]: model for model in two("models.list", {})}
    assert set(models) == {"claude-team", "claude-haiku-5-5"}
    assert models["claude-team"]["max_tokens"] == 128_000  # of the model that the name stands for


def test_one_model(two: TypeScript) -> None:
    assert two("models.retrieve", {"id": "claude-team"})["model"]["type"] == "model"
    assert two("models.retrieve", {"id": "claude-opus-5-5"})["thrown"] == "NotFoundError"
