"""The route table: the names that clients can use, and which principal may use them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.test_patterns import by_hand
from support.asgi import http_scope
from support.counts import examples

from bud_asgi.attempt import Target
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.options import OptionError
from bud_asgi.protocol.errors import ModelNotAllowed, NotFound
from bud_asgi.routing import Route, RouteTable

EXCHANGE = Exchange.of(http_scope())


def table(*models: str) -> RouteTable:
    """A table in which each model is served by a provider of its own name."""
    return RouteTable([Route(model, [f"at {model}"]) for model in models])


RESOLVED: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    "an exact name": (("a", "b"), "b", "b"),
    "an exact name before a pattern": (("*", "claude-*", "claude-x"), "claude-x", "claude-x"),
    "the first of two patterns": (("claude-*", "claude-x*"), "claude-x1", "claude-*"),
    "the first of two patterns, the other way round": (("claude-x*", "claude-*"), "claude-x1", "claude-x*"),
    "a later pattern": (("gpt-*", "claude-*"), "claude-1", "claude-*"),
    "anything": (("*",), "whatever it\nis é", "*"),
    "a star in the middle": (("a*z",), "abcz", "a*z"),
    "a star for nothing": (("a*z",), "az", "a*z"),
    "two stars": (("*opus*",), "claude-opus-4", "*opus*"),
    "stars in a row": (("a**",), "a", "a**"),
    "a name beyond the pattern": (("a*z",), "abcz1", None),
    "a name before the pattern": (("a*z",), "1az", None),
    "another name": (("a",), "b", None),
    "a name in capitals": (("a",), "A", None),
    "the beginning of a name": (("abc",), "ab", None),
    "a name with a blank": (("a",), "a ", None),
    "a name with a line end": (("a*z", "a"), "az\n", None),
    "a point is a point": (("a.b",), "axb", None),
    "a point in a pattern is a point": (("a.b*",), "axb", None),
    "a name of special letters": (("[a](b){1}^$|\\d+?", "*"), "[a](b){1}^$|\\d+?", "[a](b){1}^$|\\d+?"),
    "a pattern of special letters": (
        ("[a-z].(x)+?|\\d{1}^$*",),
        "[a-z].(x)+?|\\d{1}^$ and more",
        "[a-z].(x)+?|\\d{1}^$*",
    ),
    "special letters stand for nothing else": (("[a-z]+*",), "abc", None),
    "a question mark is no wildcard": (("a?*",), "ab", None),
    "a star in the client's name is a letter": (("claude-opus",), "claude-*", None),
    "a star of the client's may meet the pattern of that name": (("claude-*",), "claude-*", "claude-*"),
    "no routes": ((), "a", None),
}


@pytest.mark.parametrize(("models", "model", "met"), RESOLVED.values(), ids=RESOLVED.keys())
def test_a_name_is_resolved_by_the_table(models: tuple[str, ...], model: str, met: str | None) -> None:
    if met is None:
        with pytest.raises(NotFound) as refused:
            table(*models).resolve(model, None)
        assert str(refused.value) == f"model: {model}"
        assert (refused.value.status, refused.value.type, refused.value.retryable) == (404, "not_found_error", False)
    else:
        resolved = table(*models).resolve(model, None)
        assert resolved.model == model
        assert list(resolved.choose(EXCHANGE)) == [Target(f"at {met}")]


def test_targets_are_chosen_in_the_order_of_the_table() -> None:
    routes = [Route("a*", ["one", Target("two", "other-model"), "three"])]
    assert RouteTable(routes).resolve("ab", None).choose(EXCHANGE) == (
        Target("one", None),
        Target("two", "other-model"),
        Target("three", None),
    )


ALLOWED: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "all": (("*",), "claude-a", True),
    "none": ((), "claude-a", False),
    "an exact name": (("claude-a",), "claude-a", True),
    "another name": (("claude-b",), "claude-a", False),
    "a pattern": (("claude-*",), "claude-a", True),
    "another pattern": (("gpt-*",), "claude-a", False),
    "one of several": (("x", "gpt-*", "*-a"), "claude-a", True),
    "a name in capitals": (("Claude-a",), "claude-a", False),
    "the beginning of the name": (("claude",), "claude-a", False),
    "special letters": (("claude-.",), "claude-a", False),
    "an empty name": (("",), "claude-a", False),
    "a star of the client's opens nothing": (("claude-a",), "claude-*", False),
}


@pytest.mark.parametrize(("models", "model", "allowed"), ALLOWED.values(), ids=ALLOWED.keys())
def test_a_principal_may_use_its_models(models: tuple[str, ...], model: str, allowed: bool) -> None:
    principal, routes = Principal(id="p", models=models), table("claude-a", "claude-*")
    if allowed:
        assert routes.resolve(model, principal).model == model
    else:
        with pytest.raises(ModelNotAllowed) as refused:
            routes.resolve(model, principal)
        assert str(refused.value) == f"model: {model} is not among the models that you may use"
        assert (refused.value.status, refused.value.type, refused.value.retryable) == (403, "permission_error", False)


def test_a_name_that_nothing_serves_is_not_found_even_if_it_may_not_be_used() -> None:
    with pytest.raises(NotFound):
        table("a").resolve("b", Principal(id="p", models=()))


def test_two_routes_of_one_name_are_refused() -> None:
    for model in ("a", "a*"):
        with pytest.raises(OptionError) as refused:
            table("b", model, model)
        assert str(refused.value) == "routes[2].model: duplicate route, already defined by routes[1]"


@pytest.mark.parametrize("to", [[], (), "anthropic"])
def test_a_route_without_a_list_of_targets_is_refused(to: Sequence[str]) -> None:
    with pytest.raises(OptionError, match=r"^to: expected a list of targets"):
        Route("a", to)


def test_a_route_without_a_model_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^model: expected a model name or a pattern"):
        Route("", ["anthropic"])


_names = st.text("ab*", min_size=1, max_size=4)


@pytest.mark.torture
@examples(50)
@given(
    models=st.lists(_names, unique=True, max_size=5),
    allowed=st.lists(st.text("ab*", max_size=4), max_size=3),
    model=st.text("ab*", min_size=1, max_size=4),
)
def test_a_model_that_a_principal_may_not_use_is_not_resolved(
    models: list[str], allowed: list[str], model: str
) -> None:
    principal = Principal(id="p", models=tuple(allowed))
    served = [name for name in models if (by_hand(name, model))]
    may = any(by_hand(name, model) for name in allowed)
    if not served:
        with pytest.raises(NotFound):
            table(*models).resolve(model, principal)
    elif not may:
        with pytest.raises(ModelNotAllowed):
            table(*models).resolve(model, principal)
    else:
        resolved = table(*models).resolve(model, principal)
        exact = model in models and "*" not in model
        assert list(resolved.choose(EXCHANGE)) == [Target(f"at {model if exact else served[0]}")]
