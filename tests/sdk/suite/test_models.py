"""`models.list` page by page, and `models.retrieve`."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import Any

import anthropic
import pytest
from backends import BACKEND, OLDER


@pytest.fixture(scope="module", autouse=True)
def settled(client: anthropic.Anthropic) -> None:
    """The first listing may come before the backend has told its own."""
    before: list[str] = []
    while before != (before := [one.id for one in client.models.list(limit=1000)]):
        time.sleep(0.05)


def test_a_listing(client: anthropic.Anthropic) -> None:
    page = client.models.list(limit=1000)
    ids = [one.id for one in page.data]
    assert len(set(ids)) == len(ids) > 3
    assert set(BACKEND.listed.values()) <= set(ids)
    assert (page.has_more, page.first_id, page.last_id) == (False, ids[0], ids[-1])
    created = [one.created_at for one in page.data]
    assert all(isinstance(moment, datetime) for moment in created)
    assert created == sorted(created, reverse=True)
    for one in page.data:
        assert (one.type, bool(one.display_name)) == ("model", True)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_make_the_same_listing(client: anthropic.Anthropic, limit: int) -> None:
    whole = [one.id for one in client.models.list(limit=1000)]
    assert [one.id for one in client.models.list(limit=limit)] == whole
    first = client.models.list(limit=limit)
    assert (len(first.data), first.has_more, first.last_id) == (limit, True, whole[limit - 1])


async def test_pages_async(async_client: anthropic.AsyncAnthropic) -> None:
    whole = [one.id async for one in async_client.models.list(limit=1000)]
    assert [one.id async for one in async_client.models.list(limit=3)] == whole


def test_backwards(client: anthropic.Anthropic) -> None:
    whole = [one.id for one in client.models.list(limit=1000)]
    page = client.models.list(limit=2, before_id=whole[3])
    assert [one.id for one in page.data] == whole[1:3]
    assert page.has_more
    assert sorted(one.id for one in page) == sorted(whole[:3])


def test_after_the_last(client: anthropic.Anthropic) -> None:
    last = client.models.list(limit=1000).last_id
    assert last is not None
    page = client.models.list(after_id=last)
    assert (page.data, page.has_more, page.first_id, page.last_id) == ([], False, None, None)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"limit": 0}, "limit: Input should be greater than or equal to 1"),
        ({"limit": 1001}, "limit: Input should be less than or equal to 1000"),
        ({"limit": "many"}, "limit: Input should be a valid integer, unable to parse string as an integer"),
        ({"after_id": "nothing"}, "after_id"),
        ({"before_id": "nothing"}, "before_id"),
        ({"after_id": "a", "before_id": "b"}, "after_id"),
        ({"lifecycle[]": "old"}, "lifecycle"),
    ],
    ids=str,
)
def test_bad_queries(client: anthropic.Anthropic, query: dict[str, object], words: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words) as raised:
        client.models.list(extra_query=query)
    assert raised.value.type == "invalid_request_error"


@pytest.mark.parametrize("namespace", ["plain", "beta"])
def test_each_one(client: anthropic.Anthropic, namespace: str) -> None:
    models = client.models if namespace == "plain" else client.beta.models
    for listed in models.list(limit=4).data:
        assert models.retrieve(listed.id) == listed


async def test_one_async(async_client: anthropic.AsyncAnthropic) -> None:
    listed = (await async_client.models.list(limit=1)).data[0]
    assert (await async_client.models.retrieve(listed.id)).display_name == listed.display_name


@pytest.mark.parametrize("alias", BACKEND.listed)
def test_an_alias(client: anthropic.Anthropic, alias: str) -> None:
    assert client.models.retrieve(alias).id == BACKEND.listed[alias]


@pytest.mark.parametrize("name", ["claude-none", "gpt-9", "claude-haiku-4-5/x", "☃", "a b%2F"])
def test_an_unknown_one(client: anthropic.Anthropic, name: str) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.models.retrieve(name)
    assert raised.value.type == "not_found_error"
    assert raised.value.request_id == raised.value.response.headers["request-id"]


def test_only_what_a_key_may_use(client: anthropic.Anthropic) -> None:
    narrow = client.with_options(api_key=os.environ["SUITE_NARROW_KEY"])
    ids = [one.id for one in narrow.models.list(limit=1000)]
    assert ids == [one.id for one in client.models.list(limit=1000) if one.id.startswith("claude-haiku-")]
    assert ids
    with pytest.raises(anthropic.NotFoundError):
        narrow.models.retrieve(BACKEND.adaptive_model)


def in_stages(client: anthropic.Anthropic, *stages: Any) -> list[str]:
    """The ids of the models in these stages; the older SDK has no word for it."""
    if OLDER:
        return [one.id for stage in stages for one in client.models.list(extra_query={"lifecycle[]": stage})]
    return [one.id for one in client.models.list(limit=3, lifecycle=list(stages))]


def test_lifecycles(client: anthropic.Anthropic) -> None:
    whole = {one.id: one.model_dump()["lifecycle"] for one in client.models.list(limit=1000)}
    assert set(whole.values()) <= {"active", "deprecated"}
    assert in_stages(client, "active") == [name for name, stage in whole.items() if stage == "active"]
    assert sorted(in_stages(client, "active", "deprecated")) == sorted(whole)
