"""A key reaches no model outside its list, and no model outside the routes, wherever a body names it."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import BODY, KEY
from support.captured import Captured, wire
from support.counts import examples

from bud_asgi import (
    Anthropic,
    ApiKey,
    ApiKeys,
    AuthMiddleware,
    Bedrock,
    Middleware,
    Principal,
    Route,
    RouteTable,
    RoutingMiddleware,
    Target,
    Vertex,
    hash_api_key,
)
from bud_asgi.exchange import Exchange, Offer
from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.named_models import named_models
from bud_asgi.protocol.request import decode_request

SMALL, LARGE = "claude-haiku-4-5", "claude-opus-5-5"
HAIKU = ("claude-haiku-*",)


def anthropic(**options: Any) -> Anthropic:
    return Anthropic(api_key="sk-ant-x", **options)


def advisor(model: str = LARGE, **more: Any) -> dict[str, Any]:
    return {"type": "advisor_20260301", "name": "advisor", "model": model, **more}


def added(block: dict[str, Any], role: str = "system") -> dict[str, Any]:
    return {"messages": [*BODY["messages"], {"role": role, "content": [{"type": "text", "text": "x"}, block]}]}


DEFINED = {"type": "tool_definition", "definition": advisor()}
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "fallbacks": ({"fallbacks": [{"model": SMALL}, {"model": LARGE}]}, "fallbacks.1.model"),
    "the service's choice": ({"fallbacks": "default"}, "fallbacks"),
    "an advisor": ({"tools": [{"name": "x", "input_schema": {"type": "object"}}, advisor()]}, "tools.1.model"),
    "a later version of it": ({"tools": [advisor(type="advisor_20290101")]}, "tools.0.model"),
    "a tool of another type": ({"tools": [{"type": "subagent_2027", "model": LARGE}]}, "tools.0.model"),
    "a custom tool": ({"tools": [{"type": "custom", "name": "x", "model": LARGE}]}, "tools.0.model"),
    "inside a server tool": ({"tools": [{"type": "a_1", "options": {"model": LARGE}}]}, "tools.0.options.model"),
    "a tool addition": (
        added({"type": "tool_addition", "tool": DEFINED}),
        "messages.1.content.1.tool.definition.model",
    ),
    "a tool addition by a user": (
        added({"type": "tool_addition", "tool": DEFINED}, "user"),
        "messages.1.content.1.tool.definition.model",
    ),
    "a tool addition without a definition": (
        added({"type": "tool_addition", "tool": advisor()}),
        "messages.1.content.1.tool.model",
    ),
    "a tool definition": (added(DEFINED), "messages.1.content.1.definition.model"),
    "tool changes of a compaction": (
        added({"type": "compaction", "content": "x", "tool_changes": [{"tool": DEFINED}]}, "assistant"),
        "messages.1.content.1.tool_changes.0.tool.definition.model",
    ),
    "a tool addition in system": (
        {"system": [{"type": "tool_addition", "tool": DEFINED}]},
        "system.0.tool.definition.model",
    ),
    "context management": ({"context_management": {"edits": [{"model": LARGE}]}}, "context_management.edits.0.model"),
    "compaction": ({"compaction": {"type": "summarize", "model": LARGE}}, "compaction.model"),
    "a thread": ({"thread": {"type": "create", "model": LARGE}}, "thread.model"),
    "an unknown field": ({"helper": {"model": LARGE}}, "helper.model"),
}


def refused(app: Captured, body: dict[str, Any] | bytes, **more: Any) -> tuple[int, str, str]:
    error = (reply := app.post(body, **more)).error
    assert app.requests == []
    return reply.status, error["type"], error["message"]


@pytest.mark.parametrize(("fields", "place"), PLACES.values(), ids=PLACES.keys())
def test_a_key_cannot_reach_a_model_outside_its_list(fields: dict[str, Any], place: str) -> None:
    app = Captured(models=HAIKU, providers=[anthropic()])
    for counting in (False, True):
        status, kind, message = refused(app, {**BODY, **fields}, counting=counting)
        assert (status, kind) == (403, "permission_error")
        assert message.startswith(f"{place}: ")


@pytest.mark.parametrize(("fields", "place"), PLACES.values(), ids=PLACES.keys())
def test_a_key_for_all_models_can_name_them_anywhere(fields: dict[str, Any], place: str) -> None:
    app = Captured(providers=[anthropic()])
    sent = json.dumps({**BODY, **fields}).encode()
    assert app.post(sent).status == 502
    assert [wire(request) for request in app.requests] == [sent]


@pytest.mark.parametrize(("fields", "place"), PLACES.values(), ids=PLACES.keys())
def test_no_key_can_reach_a_model_outside_the_routes(fields: dict[str, Any], place: str) -> None:
    if place == "fallbacks":  # the service chooses
        return
    app = Captured(providers=[anthropic()], routes=[Route("claude-haiku-*", to=["anthropic"])])
    assert refused(app, {**BODY, **fields}) == (404, "not_found_error", f"{place}: {LARGE}")


def test_permitted_models_can_be_named() -> None:
    app = Captured(models=HAIKU, providers=[anthropic()])
    fields = {"fallbacks": [{"model": "claude-haiku-5-5", "max_tokens": 5}], "tools": [advisor(SMALL)]}
    assert app.post({**BODY, **fields}).status == 502
    assert app.body == {**BODY, **fields}


def middleware(router: Any, *, models: Sequence[str] = HAIKU) -> list[Middleware]:
    keys = ApiKeys([ApiKey(name="me", hash=hash_api_key(KEY), models=tuple(models))])
    return [
        Middleware(AuthMiddleware, backend=keys),
        *([Middleware(RoutingMiddleware, router=router)] if router else []),
    ]


class HostsRouter:
    """A router of a host's own that forgets permissions."""

    def resolve(self, model: str, principal: Principal | None) -> Any:
        return RouteTable([Route("*", to=["anthropic"])]).resolve(model, None)

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        return ()


class SetsRoute:
    """A middleware of a host's own in place of `RoutingMiddleware`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        Exchange.of(scope).route = HostsRouter().resolve(SMALL, None)
        await self.app(scope, receive, send)


@pytest.mark.parametrize("stack", ["table", "host's router", "host's middleware", "none"])
@pytest.mark.parametrize(("fields", "place"), PLACES.values(), ids=PLACES.keys())
def test_permissions_hold_in_every_stack(fields: dict[str, Any], place: str, stack: str) -> None:
    table = RouteTable([Route("*", to=["anthropic"])])
    layers = middleware({"table": table, "host's router": HostsRouter()}.get(stack))
    if stack == "host's middleware":
        layers.append(Middleware(SetsRoute))
    app = Captured(providers=[anthropic()], middleware=layers)
    status, kind, message = refused(app, {**BODY, **fields})
    assert (status, kind) == (403, "permission_error")
    assert message.startswith(f"{place}: ")


TEXT = f'"type":"tool_addition" {{"model": "{LARGE}"}}'
NEVER_JUDGED: dict[str, dict[str, Any]] = {
    "text": {"messages": [{"role": "user", "content": TEXT}], "system": TEXT},
    "the input of a tool": added({"type": "tool_use", "id": "a", "name": "b", "input": {"model": LARGE}}, "assistant"),
    "beside an addition": {
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {"model": LARGE}}]},
            {"role": "system", "content": [{"type": "tool_addition", "tool": {"type": "tool_reference", "name": "x"}}]},
        ]
    },
    "the result of a tool": added({"type": "tool_result", "content": [{"type": "tool_addition", "model": LARGE}]}),
    "a schema": {
        "tools": [{"name": "x", "input_schema": {"type": "object", "properties": {"model": {"type": "string"}}}}]
    },
    "examples": {"tools": [{"name": "x", "input_schema": {}, "input_examples": [{"model": LARGE}]}]},
    "a schema of an added tool": added(
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"input_schema": {"model": LARGE}}}}
    ),
    "metadata": {"metadata": {"user_id": TEXT, "model": LARGE}},
    "an output schema": {"output_config": {"format": {"schema": {"properties": {"model": {"const": LARGE}}}}}},
    "a tool of a toolset": {"tools": [{"type": "mcp_toolset", "configs": {"model": {"enabled": True}}}]},
    "an earlier fallback": added({"type": "fallback", "from": {"model": LARGE}, "to": {"model": SMALL}}, "assistant"),
    "null": {"tools": [advisor(cast("Any", None))], "fallbacks": None},
    "an unknown schema": {"guided": {"properties": {"model": {"type": "string"}}}},
}


@pytest.mark.parametrize("fields", NEVER_JUDGED.values(), ids=NEVER_JUDGED.keys())
def test_what_users_write_and_define_is_never_judged(fields: dict[str, Any]) -> None:
    app = Captured(models=HAIKU, providers=[anthropic()])
    sent = json.dumps({**BODY, **fields}).encode()
    assert app.post(sent).status == 502
    assert [wire(request) for request in app.requests] == [sent]


ODD: dict[str, tuple[str, int]] = {
    "an escaped field": (r'"f\u0061llbacks":[{"model":"claude-opus-5-5"}]', 403),
    "an escaped key": (r'"fallbacks":[{"mod\u0065l":"claude-opus-5-5"}]', 403),
    "an escaped name": (r'"fallbacks":[{"model":"claude-\u006fpus-5-5"}]', 403),
    "an escaped key of a tool": (r'"tools":[{"type":"advisor_1","\u006D\u006fdel":"claude-opus-5-5"}]', 403),
    "an escaped choice": (r'"fallbacks":"d\u0065fault"', 403),
    "any other choice": ('"fallbacks":"best"', 403),
    "a duplicate": ('"fallbacks":[{"model":"claude-haiku-4-5","model":"claude-opus-5-5"}]', 400),
    "a duplicate, the other way": ('"fallbacks":[{"model":"claude-opus-5-5","model":"claude-haiku-4-5"}]', 400),
    "a duplicate above it": ('"compaction":{"a":{"model":"claude-opus-5-5"},"a":{}}', 400),
    "a duplicate of null": ('"tools":[{"type":"advisor_1","model":"claude-opus-5-5","model":null}]', 400),
    "a duplicate in a custom tool": (
        '"tools":[{"name":"x","model":"claude-opus-5-5","model":"claude-haiku-4-5"}]',
        400,
    ),
    "another case": ('"fallbacks":[{"Model":"claude-opus-5-5"}]', 400),
    "both cases": ('"tools":[{"type":"advisor_1","model":"claude-haiku-4-5","MODEL":"claude-opus-5-5"}]', 400),
    "another case of the field": ('"Fallbacks":[{"model":"claude-opus-5-5"}]', 400),
    "a duplicate beside the name": (
        '"fallbacks":[{"model":"claude-haiku-4-5","speed":"fast","speed":"standard"}]',
        400,
    ),
    "many keys": ('"fallbacks":[{"model":"claude-haiku-4-5"' + "".join(f',"k{n}":1' for n in range(100)) + "}]", 400),
    "a list of names": ('"fallbacks":["claude-opus-5-5"]', 400),
    "an item without a name": ('"fallbacks":[{"max_tokens":1}]', 400),
    "a name that is no string": ('"fallbacks":[{"model":{"id":"claude-opus-5-5"}}]', 400),
    "a tool's name that is no string": ('"tools":[{"type":"advisor_1","model":["claude-opus-5-5"]}]', 400),
    "a long name": ('"fallbacks":[{"model":"claude-haiku-%s"}]' % ("x" * 256), 400),
    "many names": ('"fallbacks":[' + ",".join(['{"model":"claude-haiku-4-5"}'] * 33) + "]", 400),
    "an escaped addition": (
        r'"system":[{"type":"tool_add\u0069tion","tool":{"model":"claude-opus-5-5"}}]',
        403,
    ),
    "a duplicate type": (
        '"system":[{"type":"text","type":"tool_addition","tool":{"model":"claude-opus-5-5"}}]',
        400,
    ),
    "a duplicate type, the other way": (
        '"system":[{"type":"tool_addition","type":"text","tool":{"model":"claude-opus-5-5"}}]',
        400,
    ),
}


@pytest.mark.parametrize(("more", "status"), ODD.values(), ids=ODD.keys())
def test_no_spelling_of_a_place_hides_a_model(more: str, status: int) -> None:
    app = Captured(models=HAIKU, providers=[anthropic()])
    assert refused(app, json.dumps(BODY).encode()[:-1] + f",{more}}}".encode())[0] == status


def test_a_named_model_must_be_served_by_the_same_provider_under_the_same_name() -> None:
    app = Captured(
        providers=[anthropic(), anthropic(name="other", base_url="https://other.example")],
        routes=[
            Route("fast", to=[Target("anthropic", SMALL)]),
            Route("claude-haiku-*", to=["anthropic", "other"]),
            Route("claude-sonnet-*", to=["other"]),
            Route("claude-opus-*", to=["anthropic"]),
        ],
    )
    for name in ("fast", "claude-sonnet-5"):
        body = {**BODY, "model": LARGE, "fallbacks": [{"model": name}]}
        status, kind, message = refused(app, body)
        assert (status, kind) == (400, "invalid_request_error")
        assert message.startswith(f"fallbacks.0.model: {name} ")
    assert app.post({**BODY, "model": "fast", "fallbacks": [{"model": LARGE}]}).status == 502
    assert app.body["model"] == SMALL
    assert app.post({**BODY, "tools": [advisor("claude-sonnet-5")]}).status == 502
    assert [request.origin.host for request in app.requests] == ["other.example"]


ARN = "arn:aws:bedrock:us-east-1:999999999999:application-inference-profile/abc"


def test_a_resource_of_another_account_is_not_among_all_models() -> None:
    bedrock = Bedrock(region="us-east-1", bearer_token="bedrock-api-key")
    for model in (ARN, ARN.replace("arn:", "ARN:"), "projects/p/locations/l/publishers/anthropic/models/m"):
        every: list[dict[str, Any]] = [
            {},
            {"routes": [Route("*", to=["bedrock"])]},
            {"middleware": middleware(None, models=("*",))},
        ]
        for options in every:
            app = Captured(providers=[bedrock], **options)
            assert refused(app, {**BODY, "model": model})[:2] == (403, "permission_error")
            assert refused(app, {**BODY, "tools": [advisor(model)]})[:2] == (403, "permission_error")
    named: list[dict[str, Any]] = [
        {"models": ("*", "arn:aws:bedrock:*")},
        {"models": (ARN,)},
        {"routes": [Route("*", to=["bedrock"]), Route("arn:aws:bedrock:us-east-1:999999999999:*", to=["bedrock"])]},
        {"routes": [Route(ARN, to=["bedrock"])]},
        {"middleware": middleware(None, models=(ARN,))},
    ]
    for options in named:
        app = Captured(providers=[bedrock], **options)
        assert app.post({**BODY, "model": ARN}).status == 502
        assert b"999999999999" in app.requests[0].target


BAD_NAMES = [
    "claude-%2F..%2F..%2Fx",
    "claude-a\0",
    "claude-a/../b",
    "claude a",
    "claude-é",
    "a?b#c",
    "",
    "..",
    "\u202e",
]


@pytest.mark.parametrize("model", [*BAD_NAMES, "arn:aws:bedrock:us-east-1:1:x/../../y"])
def test_a_name_cannot_leave_its_place_in_a_clouds_path(model: str) -> None:
    for cloud in (
        Bedrock(region="us-east-1", bearer_token="k"),
        Vertex(project="p", credentials=cast("Any", SimpleNamespace(token="t"))),
    ):
        app = Captured(models=("*", "arn:*"), providers=[cloud])
        assert refused(app, {**BODY, "model": model})[0] in {400, 404}
        assert refused(app, {**BODY, "model": model}, counting=True)[0] in {400, 404}


def test_matching_a_name_takes_linear_time() -> None:
    patterns = ("a*" * 100 + "b", *(f"claude-{n}-*-*-*-*-preview" for n in range(200)))
    app = Captured(
        models=patterns, providers=[anthropic()], routes=[Route(pattern, to=["anthropic"]) for pattern in patterns]
    )
    app.post(BODY)  # what is loaded on first use
    started = time.thread_time()
    for model in ("a" * 256, "claude-7-" + "-" * 240, "claude-199-" + "-x" * 120):
        assert app.post({**BODY, "model": model}).status == 404
    assert time.thread_time() - started < 0.5


def test_a_body_of_a_thousand_keys_takes_linear_time() -> None:
    app = Captured(providers=[anthropic()])
    plain = {f"key{n}": [n] * 10 for n in range(990)}
    app.post(BODY)  # what is loaded on first use
    started = time.thread_time()
    assert app.post({**BODY, **plain, "user_profile_id": "up_1"}).status == 502
    assert time.thread_time() - started < 0.5
    assert app.body == {**BODY, **plain}


def read_models(value: Any, *, choose: str) -> Iterator[str]:
    """The models that an upstream reads: it decodes the body, taking the first or the last of equal keys."""
    body = last_or_first(value, choose)
    yield from strings(body.get("model"))
    fallbacks = body.get("fallbacks")
    if isinstance(fallbacks, str):
        yield fallbacks
    for item in fallbacks if isinstance(fallbacks, list) else ():
        yield from strings(last_or_first(item, choose).get("model"))
    for tool in body.get("tools") or ():
        yield from strings(last_or_first(tool, choose).get("model"))
    for message in body.get("messages") or ():
        content = last_or_first(message, choose).get("content")
        for pairs in content if isinstance(content, list) else ():
            block = last_or_first(pairs, choose)
            if block.get("type") == "tool_addition":
                tool = last_or_first(block.get("tool"), choose)
                tool = last_or_first(tool.get("definition"), choose) if tool.get("type") == "tool_definition" else tool
                yield from strings(tool.get("model"))


def strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else []


def last_or_first(pairs: Any, choose: str) -> dict[str, Any]:
    """An object from its pairs. A reader that ignores case takes the last of equal keys."""
    read: dict[str, Any] = {}
    for key, value in pairs if isinstance(pairs, Pairs) else ():
        name = key.casefold() if choose == "folded" else key
        if choose != "first" or name not in read:
            read[name] = value
    return read


class Pairs(list[tuple[str, Any]]):
    """The pairs of an object."""


_names = st.sampled_from([SMALL, LARGE, "claude-haiku-5-5", "default", "x"])


def written(key: str) -> st.SearchStrategy[str]:
    """A key in some spelling."""
    escaped = "".join(f"\\u{ord(c):04x}" if n % 2 else c for n, c in enumerate(key))
    return st.sampled_from([key, key, key, key, escaped, key.title(), key.upper()])


def objects(fields: dict[str, st.SearchStrategy[str]]) -> st.SearchStrategy[str]:
    """Objects of some of these fields, perhaps twice, in any order and spelling."""
    pair = st.one_of([st.tuples(written(key), value) for key, value in fields.items()])
    return st.lists(pair, max_size=4).map(
        lambda pairs: "{" + ",".join(f'"{key}": {value}' for key, value in pairs) + "}"
    )


def lists(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(items, max_size=3).map(lambda values: "[" + ",".join(values) + "]")


_name = st.one_of(
    _names.map(json.dumps), st.just(r'"claude-\u006fpus-5-5"'), st.sampled_from(["null", "1", '{"model":"x"}'])
)
_kind = st.sampled_from(["advisor_20260301", "custom", "text", "tool_addition", "tool_definition", "tool_use"]).map(
    json.dumps
)
_tool = objects(
    {"type": _kind, "model": _name, "input_schema": objects({"model": _name}), "x": objects({"model": _name})}
)
_definition = objects({"type": st.just('"tool_definition"'), "definition": _tool})
_block = objects(
    {"type": _kind, "tool": st.one_of(_tool, _definition), "text": _name, "input": objects({"model": _name})}
)
_message = objects({"role": st.just('"system"'), "content": st.one_of(_name, lists(_block))})
_bodies = st.tuples(
    objects({"fallbacks": st.one_of(_name, lists(objects({"model": _name, "speed": _name}))), "tools": lists(_tool)}),
    lists(_message),
)


@pytest.mark.torture
@examples(40, 50_000)
@given(_bodies)
def test_no_body_takes_a_model_outside_the_list_upstream(parts: tuple[str, str]) -> None:
    more, messages = parts
    fields = f",{more[1:-1]}" if more != "{}" else ""
    inside = f",{messages[1:-1]}" if messages != "[]" else ""
    body = f'{{"model":"{SMALL}","max_tokens":1,"messages":[{{"role":"user"}}{inside}]{fields}}}'
    PROPERTY.post(body.encode())
    for request in PROPERTY.requests:
        pairs = json.loads(wire(request), object_pairs_hook=Pairs)
        for choose in ("first", "last", "folded"):
            assert all(name.startswith("claude-haiku-") for name in read_models(pairs, choose=choose)), body


PROPERTY = Captured(models=HAIKU, providers=[anthropic()])


def large(messages: bytes, more: bytes = b"") -> bytes:
    return b'{"model":"m","max_tokens":1,"messages":' + messages + more + b"}"


ADDITION = b'{"role":"system","content":[{"type":"tool_addition","tool":{"model":"x"}}]}'
USE = b'{"type":"tool_use","input":{"model":1}}'
LARGE_BODIES: dict[str, Callable[[], bytes]] = {
    "text": lambda: large(b'[{"role":"user","content":"' + b"Hello, there " * 2_400_000 + b'"}]'),
    "escapes": lambda: large(b'[{"role":"user","content":"' + rb"\u00e9" * 5_200_000 + b'"}]'),
    "escaped quotes": lambda: large(b"[" + ADDITION + b',{"model":"' + rb"\"" * 15_000_000 + b'"}]'),
    "small messages": lambda: large(b"[" + ADDITION + b",{}" * 250_000 + b"]"),
    "small blocks": lambda: large(b'[{"content":[' + b",".join([USE] * 100_000) + b"]}," + ADDITION + b"]"),
    "small tools": lambda: large(b"[{}]", b',"tools":[' + b'{"model":null},' * 250_000 + b"{}]"),
    "keys of tools": lambda: large(
        b"[{}]",
        b',"tools":[' + b",".join([b"{" + b'"a%d":1,' * 900 % tuple(range(900)) + b'"x":{"model":1}}'] * 250) + b"]",
    ),
    "one field": lambda: large(b"[{}]", b',"thinking":{"model":["",' + b"[]," * 85_000 + b"1]}"),
    "depth": lambda: large(b"[{}]", b',"thinking":{"model":1,"a":' + b"[" * 900 + b"]" * 900 + b"}"),
}


@pytest.mark.parametrize("make", LARGE_BODIES.values(), ids=LARGE_BODIES.keys())
def test_the_search_for_models_never_holds_the_loop_for_long(make: Callable[[], bytes]) -> None:
    """Measured in CPU time between two pauses, with garbage collection off: other tests leave much behind."""
    held, found = [0.0], named_models(decode_request(make()))
    gc.disable()
    try:
        while True:
            started = time.thread_time()
            try:
                next(found)
            except (StopIteration, InvalidRequest):
                break
            finally:
                held.append(time.thread_time() - started)
    finally:
        gc.enable()
    assert max(held) < 0.1


@pytest.mark.parametrize("offset", range(-8, 2))
def test_no_place_in_a_large_body_hides_a_model(offset: int) -> None:
    """Large bodies are searched in chunks of 4 MB: a key may lie across two of them."""
    key, before = b'"model":"claude-opus-5-5"', b'[{"role":"user","content":"'
    start = b'"},{"role":"system","content":[{"type":"tool_addition","tool":{'
    text = b"x" * ((1 << 22) + offset - len(before) - len(start))
    sent = large(before + text + start + key + b"}}]}]").replace(b'"m"', b'"claude-haiku-4-5"', 1)
    status, kind, message = refused(Captured(models=HAIKU, providers=[anthropic()]), sent)
    assert (status, kind) == (403, "permission_error")
    assert message.startswith("messages.1.content.0.tool.model: ")
