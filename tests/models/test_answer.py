"""The answer of the Models API: a page of the list or one model, and the response that carries it."""

from __future__ import annotations

import json

import pytest
from support.asgi import call, http_scope

from bud_asgi import Anonymous, Anthropic, MessagesApp
from bud_asgi.catalogue import served_at
from bud_asgi.models.answer import models_body
from bud_asgi.protocol.errors import InvalidRequest, NotFound
from bud_asgi.protocol.models_api import ListQuery, Model, read_listing

MODELS = [Model("claude-z"), Model("claude-haiku-4-5-20251001"), Model("house")]


def test_without_an_id_a_page_of_the_list_is_encoded() -> None:
    body = json.loads(models_body(MODELS, ListQuery(limit=2)))
    assert [model["id"] for model in body["data"]] == ["claude-z", "claude-haiku-4-5-20251001"]
    assert (body["has_more"], body["last_id"]) == (True, "claude-haiku-4-5-20251001")


@pytest.mark.parametrize("model_id", ["claude-haiku-4-5-20251001", "claude-haiku-4-5"])
def test_with_an_id_or_alias_one_model_is_encoded(model_id: str) -> None:
    assert json.loads(models_body(MODELS, ListQuery(), model_id))["id"] == "claude-haiku-4-5-20251001"


@pytest.mark.parametrize("model_id", ["", "claude-opus-5", "claude"])
def test_an_unknown_id_is_not_found(model_id: str) -> None:
    with pytest.raises(NotFound) as raised:
        models_body(MODELS, ListQuery(), model_id)
    assert str(raised.value) == f"model: {model_id}"


@pytest.mark.parametrize("model_id", [None, "claude-a"])
def test_fields_of_the_beta_form_need_the_beta_query(model_id: str | None) -> None:
    models = read_listing(b'{"data":[{"id":"claude-a","allowed_fallback_models":["claude-b"]}]}') or []
    assert b"allowed_fallback_models" not in models_body(models, ListQuery(), model_id)
    assert b'"allowed_fallback_models":["claude-b"]' in models_body(models, ListQuery(beta=True), model_id)


def test_an_after_cursor_of_a_replaced_catalogue_starts_from_the_first_page() -> None:
    gone = served_at("anthropic")[0]
    assert models_body(MODELS, ListQuery(after_id=gone)) == models_body(MODELS, ListQuery())
    with pytest.raises(InvalidRequest, match=r"^before_id: there is no model with this id$"):
        models_body(MODELS, ListQuery(before_id=gone))


@pytest.mark.parametrize("cursor", ["claude-unknown", ""])
def test_any_other_cursor_that_is_not_in_the_list_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^after_id: there is no model with this id$"):
        models_body(MODELS, ListQuery(after_id=cursor))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/claude-opus-5", "/v1/models/x"])
async def test_the_response_to_head_has_no_body(path: str) -> None:
    app = MessagesApp(providers=[Anthropic(auth="client")], auth=Anonymous())
    scope = http_scope(method="HEAD", path=path, raw_path=path.encode())
    async with app.lifespan():
        sent = await call(app, scope)
    assert sent.body == b""
    assert int(sent.headers[b"content-length"]) > 2
    assert sent.status == (404 if path.endswith("x") else 200)


async def test_a_bad_query_is_refused_for_the_list_and_ignored_for_one_model() -> None:
    app = MessagesApp(providers=[Anthropic(auth="client")], auth=Anonymous())
    async with app.lifespan():
        for path, status in {"/v1/models": 400, "/v1/models/claude-opus-5": 200}.items():
            scope = http_scope(method="GET", path=path, raw_path=path.encode(), query_string=b"limit=0")
            assert (await call(app, scope)).status == status
