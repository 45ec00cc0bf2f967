"""The Models API as pure functions: the query, an upstream's list, model objects, pages."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.models_api import EPOCH, MAX_QUERY, ListQuery, Model, page, read_listing, read_query

USUAL = ("active", "deprecated")

QUERIES: dict[str, tuple[bytes, ListQuery]] = {
    "nothing": (b"", ListQuery(20, None, None, USUAL, beta=False)),
    "a limit": (b"limit=1", ListQuery(limit=1)),
    "the largest limit": (b"limit=1000", ListQuery(limit=1000)),
    "the last of two limits": (b"limit=1&limit=2", ListQuery(limit=2)),
    "after": (b"after_id=claude-a", ListQuery(after_id="claude-a")),
    "before": (b"before_id=claude-a", ListQuery(before_id="claude-a")),
    "an escaped cursor": (b"after_id=meta%2Fa%20b%C3%A9+c", ListQuery(after_id="meta/a bé c")),
    "an empty cursor": (b"after_id=", ListQuery(after_id="")),
    "one lifecycle, as the SDK writes it": (b"lifecycle%5B%5D=retired", ListQuery(lifecycle=("retired",))),
    "lifecycles": (
        b"lifecycle[]=active&lifecycle[]=retired&lifecycle=deprecated",
        ListQuery(lifecycle=("active", "retired", "deprecated")),
    ),
    "the beta form": (b"beta=true", ListQuery(beta=True)),
    "another beta": (b"beta=1", ListQuery()),
    "unknown parameters": (b"page=3&%FF=%FF&;&&=&\xff=\xff", ListQuery()),
    "an oversized query": (b"x=" + b"a" * MAX_QUERY + b"&limit=0", ListQuery()),
}


@pytest.mark.parametrize(("query", "expected"), QUERIES.values(), ids=QUERIES.keys())
def test_a_query_is_read(query: bytes, expected: ListQuery) -> None:
    assert read_query(query) == expected


NOT_AN_INTEGER = "limit: Input should be a valid integer, unable to parse string as an integer"
TOO_SMALL = "limit: Input should be greater than or equal to 1"
TOO_LARGE = "limit: Input should be less than or equal to 1000"
NOT_A_LIFECYCLE = "Input should be 'active', 'deprecated' or 'retired'"

REFUSED: dict[str, tuple[bytes, str]] = {
    "limit 0": (b"limit=0", TOO_SMALL),
    "limit -0": (b"limit=-0", TOO_SMALL),
    "limit -1": (b"limit=-1", TOO_SMALL),
    "limit 1001": (b"limit=1001", TOO_LARGE),
    "a limit of a thousand digits": (b"limit=" + b"9" * 1000, NOT_AN_INTEGER),
    "a fraction": (b"limit=1.5", NOT_AN_INTEGER),
    "a word": (b"limit=ten", NOT_AN_INTEGER),
    "an empty limit": (b"limit=", NOT_AN_INTEGER),
    "a minus": (b"limit=-", NOT_AN_INTEGER),
    "two minuses": (b"limit=--1", NOT_AN_INTEGER),
    "digits of another script": (b"limit=%D9%A3", NOT_AN_INTEGER),
    "an underscore": (b"limit=1_0", NOT_AN_INTEGER),
    "both cursors": (b"after_id=a&before_id=b", "after_id: only one of after_id and before_id may be given"),
    "both cursors, empty": (b"before_id=&after_id=", "after_id: only one of after_id and before_id may be given"),
    "an unknown lifecycle": (b"lifecycle[]=new", f"lifecycle.0: {NOT_A_LIFECYCLE}"),
    "the second lifecycle": (b"lifecycle[]=active&lifecycle[]=", f"lifecycle.1: {NOT_A_LIFECYCLE}"),
    "four lifecycles": (b"lifecycle[]=active&" * 4, "lifecycle: List should have at most 3 items"),
}


@pytest.mark.parametrize(("query", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_query_is_refused_with_the_name_of_the_parameter(query: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_query(query)
    assert (refused.value.status, str(refused.value)) == (400, message)


@pytest.mark.torture
@examples(40)
@given(st.lists(st.tuples(st.sampled_from([b"limit", b"after_id", b"lifecycle[]", b"x"]), st.binary(max_size=8))))
def test_any_query_is_read_or_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    try:
        query = read_query(b"&".join(name + b"=" + value for name, value in pairs))
    except InvalidRequest:
        return
    assert 1 <= query.limit <= 1000
    assert set(query.lifecycle) <= {"active", "deprecated", "retired"}


def from_upstream(**fields: Any) -> Model:
    """A model as it is read from an upstream's list."""
    models = read_listing(json.dumps({"data": [{"id": "claude-a", **fields}]}).encode())
    assert models is not None
    return models[0]


def rendered(model: Model, *, beta: bool = False) -> dict[str, Any]:
    """The object that a client receives."""
    body = page([model], ListQuery(lifecycle=("active", "deprecated", "retired"), beta=beta))
    return json.loads(body)["data"][0]


DEFAULTS = {
    "type": "model",
    "id": "claude-a",
    "display_name": "claude-a",
    "created_at": "1970-01-01T00:00:00Z",
    "lifecycle": "active",
}


def test_a_model_without_fields_is_rendered_with_defaults() -> None:
    assert rendered(Model("claude-a")) == DEFAULTS
    assert DEFAULTS["created_at"] == EPOCH


def test_listed_fields_are_rendered_unchanged() -> None:
    fields = {"display_name": "A é", "max_tokens": None, "capabilities": {"x": [1e2, {}]}, "new_field": 1}
    assert rendered(from_upstream(**fields)) == DEFAULTS | fields


def test_type_and_id_are_set_by_the_gateway() -> None:
    model = read_listing(b'{"data":[{"type":"other","id":"claude-b"}]}')
    assert model is not None
    assert rendered(Model("claude-a", model[0].fields)) == DEFAULTS


@pytest.mark.parametrize("name", ["display_name", "created_at", "lifecycle"])
def test_defaults_replace_null(name: str) -> None:
    assert rendered(from_upstream(**{name: None})) == DEFAULTS


def test_fallbacks_are_rendered_in_the_beta_form_only() -> None:
    model = from_upstream(allowed_fallback_models=["claude-b"])
    assert rendered(model) == DEFAULTS
    assert rendered(model, beta=True) == DEFAULTS | {"allowed_fallback_models": ["claude-b"]}


def test_a_field_of_the_wrong_type_is_ignored() -> None:
    model = from_upstream(lifecycle=1, created_at={"a": 1})
    assert (model.lifecycle, model.created_at) == ("active", EPOCH)


LISTINGS: dict[str, tuple[bytes, list[str] | None]] = {
    "none": (b'{"data":[]}', []),
    "in its order": (b'{"data":[{"id":"b"},{"id":"a"}],"has_more":false}', ["b", "a"]),
    "of a server of another format": (b'{"object":"list","data":[{"id":"m/x","object":"model","created":1}]}', ["m/x"]),
    "spread out": (b' {\n "data" : [ {\t"id" : "a\\u00e9" } ] } ', ["aé"]),
    "without an id": (b'{"data":[{"id":"a"},{"name":"b"},{}]}', ["a"]),
    "an id that is not a string": (b'{"data":[{"id":"a"},{"id":5}]}', None),
    "an entry that is not an object": (b'{"data":["a"]}', None),
    "data that is not an array": (b'{"data":{"id":"a"}}', None),
    "another object": (b'{"models":[]}', None),
    "an array": (b"[]", None),
    "null": (b"null", None),
    "nothing": (b"", None),
    "a web page": (b"<!doctype html>", None),
    "cut off": (b'{"data":[{"id":"a"}', None),
    "nested too deeply": (b'{"data":[{"id":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", None),
    "invalid UTF-8 in an id": (b'{"data":[{"id":"\xff"}]}', None),
    "invalid UTF-8 in a key": (b'{"data":[{"\xff":1,"id":"a"}]}', None),
    "invalid UTF-8 in a value": (b'{"data":[{"id":"a","display_name":"\xff"}]}', None),
    "invalid UTF-8 deep in a value": (b'{"data":[{"id":"a","x":[{"y":"\xc3("}]}]}', None),
    "a lone surrogate": (b'{"data":[{"id":"a","x":"\\ud83d"}]}', None),
    "far too many": (b'{"data":[' + b",".join([b'{"id":"a"}'] * 10_001) + b"]}", None),
}


@pytest.mark.parametrize(("body", "ids"), LISTINGS.values(), ids=LISTINGS.keys())
def test_an_upstream_s_list_is_read_or_rejected(body: bytes, ids: list[str] | None) -> None:
    listed = read_listing(body)
    assert (None if listed is None else [model.id for model in listed]) == ids


@pytest.mark.torture
@examples(40)
@given(value=st.binary(max_size=6), quoted=st.booleans())
def test_every_listed_value_is_rendered_as_valid_json(value: bytes, quoted: bool) -> None:
    for model in read_listing(b'{"data":[{"id":"a","x":' + (b'"%b"' % value if quoted else value) + b"}]}") or []:
        json.loads(page([model], ListQuery()))


LIVES = ("active", "deprecated", "retired")
A_TO_F = [Model(name, from_upstream(lifecycle=LIVES[place % 3]).fields) for place, name in enumerate("abcdef")]
"""`a` and `d` are active, b and e deprecated, c and f retired."""

PAGES: dict[str, tuple[ListQuery, str, bool]] = {
    "all except the retired": (ListQuery(), "abde", False),
    "all": (ListQuery(lifecycle=LIVES), "abcdef", False),
    "the retired": (ListQuery(lifecycle=("retired",)), "cf", False),
    "the first": (ListQuery(limit=1), "a", True),
    "as many as there are": (ListQuery(limit=4), "abde", False),
    "one fewer": (ListQuery(limit=3), "abd", True),
    "after one": (ListQuery(after_id="a", limit=2), "bd", True),
    "after one that is not listed": (ListQuery(after_id="c"), "de", False),
    "after the last but one": (ListQuery(after_id="d"), "e", False),
    "after the last": (ListQuery(after_id="f"), "", False),
    "before one": (ListQuery(before_id="e", limit=2), "bd", True),
    "before one that is not listed": (ListQuery(before_id="f", limit=3), "bde", True),
    "before the second": (ListQuery(before_id="b"), "a", False),
    "before the first": (ListQuery(before_id="a"), "", False),
}


@pytest.mark.parametrize(("query", "ids", "more"), PAGES.values(), ids=PAGES.keys())
def test_a_page_is_cut_from_the_list(query: ListQuery, ids: str, more: bool) -> None:
    body = json.loads(page(A_TO_F, query))
    assert [model["id"] for model in body["data"]] == list(ids)
    assert body == {
        "data": body["data"],
        "has_more": more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


@pytest.mark.parametrize("query", [ListQuery(after_id="x"), ListQuery(before_id="x"), ListQuery(after_id="")])
def test_an_unknown_cursor_is_refused(query: ListQuery) -> None:
    name = "before_id" if query.before_id else "after_id"
    with pytest.raises(InvalidRequest, match=rf"^{name}: there is no model with this id$"):
        page(A_TO_F, query)


def test_an_empty_list_has_an_empty_page() -> None:
    assert page([], ListQuery()) == b'{"data":[],"has_more":false,"first_id":null,"last_id":null}'


_kinds = st.sets(st.sampled_from(LIVES), min_size=1).map(tuple)


def walked(models: list[Model], query: ListQuery, cursor: str, end: str) -> list[list[str]]:
    """The ids of consecutive pages, each starting where the previous one ended."""
    pages: list[list[str]] = []
    more = True
    while more:
        body = json.loads(page(models, query))
        pages.append([model["id"] for model in body["data"]])
        more = body["has_more"]
        assert not more or len(pages[-1]) == query.limit
        query = msgspec.structs.replace(query, **{cursor: body[end]})
    return pages


@pytest.mark.torture
@examples(50)
@given(
    lives=st.lists(st.sampled_from(LIVES), min_size=1, max_size=12),
    limit=st.integers(1, 13),
    kinds=st.sets(st.sampled_from(LIVES), min_size=1).map(tuple),
)
def test_the_pages_add_up_to_the_list_in_both_directions(lives: list[str], limit: int, kinds: tuple[str, ...]) -> None:
    models = [Model(str(place), from_upstream(lifecycle=life).fields) for place, life in enumerate(lives)]
    whole = [model.id for model in models if model.lifecycle in kinds]
    query = ListQuery(limit=limit, lifecycle=kinds)
    assert [*chain(*walked(models, query, "after_id", "last_id"))] == whole
    back = walked(models, msgspec.structs.replace(query, before_id=models[-1].id), "before_id", "first_id")
    assert [*chain(*reversed(back))] == [name for name in whole if name != models[-1].id]
