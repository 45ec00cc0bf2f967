"""Thinking blocks of another service over real sockets: refused, tried once without them, and what everyone got."""

from __future__ import annotations

import json
from collections.abc import Generator
from itertools import count, permutations
from typing import Any

import anthropic
import httpx
import pytest
from failover_stage import REPLY, SAID, WHOLE, Stage, assert_whole, failover_stage, route_to
from support.calls import BODY, MODEL
from support.gateway import gateway, timed

from bud_asgi import Anonymous, Anthropic, Route, Target
from bud_asgi.clock import Timing
from bud_asgi.testing import Received, StandIn, error, json_body, late, thinking
from bud_asgi.testing.anthropic.messages import make_signature
from bud_asgi.testing.bedrock import aws_error, exception_first
from bud_asgi.testing.google import google_error

SERVICES = ("one", "aws", "google")
ORDERS = [order for size in (1, 2, 3) for order in permutations(SERVICES, size)]
BETA = "context-management-2025-06-27"
TEXT = {"type": "text", "text": "It is sunny."}
CALL: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {"thinking": "1.50"}}
QUESTION = {"role": "user", "content": "Weather?"}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]}
ENABLED = {"type": "enabled", "budget_tokens": 1024}
WORDS = "messages.1.content.0: Invalid `signature` in `thinking` block"
_numbers = count()


@pytest.fixture(scope="module")
def module_stage() -> Generator[Stage]:
    hedged = Route("hedged", [Target("one", MODEL), Target("aws", MODEL)], hedge=0.1, retry_without_thinking=True)
    routes = [*(route_to(*order, retry_without_thinking=True) for order in ORDERS), hedged, Route("off", ["one"])]
    with failover_stage(signed=True, routes=routes) as one:
        yield one


@pytest.fixture
def stage(module_stage: Stage) -> Generator[Stage]:
    module_stage.reset()
    yield module_stage
    module_stage.here.assert_nothing_open()


@pytest.fixture
def caller() -> str:
    return f"caller-{next(_numbers)}"


def thought(signer: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "Hm.", "signature": make_signature(signer, "seed")}


def conversation(signer: str, *blocks: Any, following: Any = QUESTION) -> list[Any]:
    return [QUESTION, {"role": "assistant", "content": [thought(signer), *(blocks or [TEXT])]}, following]


def cleared(messages: list[Any]) -> list[Any]:
    question, answer, following = messages
    return [question, {**answer, "content": answer["content"][1:]}, following]


def sent(received: Received) -> dict[str, Any]:
    return json.loads(received.body)


def refusals(requests: list[Received]) -> list[str | None]:
    return [request.refusal for request in requests]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("first", SERVICES)
def test_the_same_target_answers_without_the_thinking_of_another(
    stage: Stage, caller: str, first: str, stream: bool
) -> None:
    stage.set(**{first: REPLY})
    messages = conversation("another")
    reply = stage.post(caller, first, messages=messages, stream=stream)
    assert_whole(reply, stream=stream)
    assert reply.headers["bud-dropped"] == "messages.thinking"
    assert stage.ends(caller) == [(first, "refused"), (first, "answered")]
    before, after = stage.sent(first)
    assert refusals([before, after]) == [WORDS, None]
    assert sent(before) == {**sent(after), "messages": messages}
    assert sent(after)["messages"] == cleared(messages)
    account = stage.account(caller)
    assert [attempt.possibly_billed for attempt in account.attempts] == [False, True]
    assert (account.attempts[0].usage, account.outcome) == (None, "answered")
    assert stage.limits.booked_now(caller) == WHOLE


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("first", SERVICES)
def test_the_client_sees_nothing_of_it_but_the_header(stage: Stage, caller: str, first: str, stream: bool) -> None:
    stage.set(**{first: REPLY})
    messages = conversation("another")
    changed = stage.post(caller, first, messages=messages, stream=stream)
    usual = stage.post(f"{caller} again", first, messages=cleared(messages), stream=stream)
    assert set(changed.headers) == {*usual.headers, "bud-dropped"}
    if stream:
        assert changed.text.count("message_start") == usual.text.count("message_start")
    else:
        assert {**changed.json(), "id": ""} == {**usual.json(), "id": ""}


@pytest.mark.parametrize("first", SERVICES)
def test_own_thinking_is_sent_as_it_is(stage: Stage, caller: str, first: str) -> None:
    stage.set(**{first: REPLY})
    messages = conversation(first)
    reply = stage.post(caller, first, messages=messages)
    assert_whole(reply, stream=False)
    assert "bud-dropped" not in reply.headers
    assert [sent(request)["messages"] for request in stage.sent(first)] == [messages]


@pytest.mark.parametrize("first", SERVICES)
def test_a_tool_loop_goes_on_without_thinking(stage: Stage, caller: str, first: str) -> None:
    stage.set(**{first: REPLY})
    messages = conversation("another", CALL, following=RESULT)
    reply = stage.post(caller, first, messages=messages, thinking=ENABLED, max_tokens=2000)
    assert_whole(reply, stream=False)
    assert reply.headers["bud-dropped"] == "messages.thinking, thinking"
    before, after = stage.sent(first)
    assert refusals([before, after]) == [WORDS, None]
    assert sent(before) == {**sent(after), "messages": messages, "thinking": ENABLED}


def test_edits_that_need_thinking_are_left_out_with_it(stage: Stage, caller: str) -> None:
    stage.set(one=REPLY)
    body = {
        **BODY,
        "model": "one",
        "max_tokens": 2000,
        "messages": conversation("another", CALL, following=RESULT),
        "thinking": ENABLED,
        "context_management": {"edits": [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}]},
        "user_profile_id": "someone",
    }
    headers = {"x-api-key": caller, "anthropic-version": "2023-06-01", "anthropic-beta": BETA}
    reply = stage.here.post(body, headers=headers)
    assert_whole(reply, stream=False)
    names = "messages.thinking, thinking, context_management.clear_thinking, user_profile_id"
    assert reply.headers["bud-dropped"] == names
    assert sent(stage.sent("one")[1])["context_management"] == {"edits": [{"type": "clear_tool_uses_20250919"}]}


REFUSED = {
    "one": error(400, "invalid_request_error", WORDS),
    "aws": aws_error("ValidationException", f"The model returned the following errors: {WORDS}"),
    "google": google_error("INVALID_ARGUMENT", f"Publisher Model error: {WORDS}"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("first", SERVICES)
def test_it_is_tried_once_only_and_the_client_gets_the_first_refusal(
    stage: Stage, caller: str, first: str, stream: bool
) -> None:
    stage.set(**{first: REFUSED[first]})
    reply = stage.post(caller, first, messages=conversation(first), stream=stream)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json()["error"]["message"].endswith(WORDS)
    assert stage.ends(caller) == [(first, "refused")] * 2
    assert stage.account(caller).usage is None
    if first == "one":
        assert reply.json()["request_id"] == stage.sent("one")[0].request_id


def test_another_400_for_the_second_attempt_is_not_shown(stage: Stage, caller: str) -> None:
    stage.set(one=error(400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"))
    reply = stage.post(caller, "one", messages=conversation("another"))
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, WORDS)
    assert reply.json()["request_id"] == stage.sent("one")[0].request_id
    assert stage.limits.booked_now(caller).tokens == 0


def test_a_refusal_in_a_stream_of_bedrocks_is_one_too(stage: Stage, caller: str) -> None:
    replies = iter([exception_first("validationException", WORDS), REPLY])
    stage.set(aws=lambda _: next(replies))
    reply = stage.post(caller, "aws", messages=conversation("aws"), stream=True)
    assert_whole(reply, stream=True)
    assert stage.ends(caller) == [("aws", "refused"), ("aws", "answered")]
    assert stage.limits.booked_now(caller) == WHOLE


@pytest.mark.parametrize(("first", "second"), list(permutations(SERVICES, 2)))
def test_after_a_failure_of_another_kind_the_next_target_gets_the_same(
    stage: Stage, caller: str, first: str, second: str
) -> None:
    messages = conversation("another")
    stage.set(**{first: error(529, "overloaded_error", "no words"), second: REPLY})
    if first == "aws":
        stage.set(aws=aws_error("ThrottlingException", "no words"))
    reply = stage.post(caller, first, second, messages=messages, stream=True)
    assert_whole(reply, stream=True)
    assert reply.headers["bud-dropped"] == "messages.thinking"
    assert stage.ends(caller) == [(first, "refused"), (first, "overloaded"), (second, "answered")]
    assert [sent(one)["messages"] for one in stage.sent(second)] == [cleared(messages)]
    assert stage.limits.booked_now(caller) == WHOLE


FIRST_TWICE = [("one", "refused"), ("one", "overloaded"), ("aws", "overloaded"), ("google", "answered")]
SECOND_TWICE = [("one", "overloaded"), ("aws", "refused"), ("aws", "overloaded"), ("google", "answered")]


@pytest.mark.parametrize(("signer", "ends"), [("another", FIRST_TWICE), ("one", SECOND_TWICE)])
def test_a_target_that_is_tried_twice_is_one_of_three(
    stage: Stage, caller: str, signer: str, ends: list[tuple[str, str]]
) -> None:
    busy = {"one": error(529, "overloaded_error", "no words"), "aws": aws_error("ThrottlingException", "no words")}
    stage.set(**busy, google=REPLY)
    reply = stage.post(caller, "one", "aws", "google", messages=conversation(signer))
    assert_whole(reply, stream=False)
    assert stage.ends(caller) == ends


def test_an_attempt_without_thinking_can_be_hedged(stage: Stage, caller: str) -> None:
    messages = conversation("another")
    stage.set(one=late(2.0, REPLY), aws=REPLY)
    reply = stage.post(caller, "hedged", messages=messages)
    assert_whole(reply, stream=False)
    assert reply.headers["bud-dropped"] == "messages.thinking"
    assert stage.ends(caller) == [("one", "refused"), ("one", "cancelled"), ("aws", "answered")]
    assert [sent(one)["messages"] for one in stage.sent("aws")] == [cleared(messages)]


def test_a_second_attempt_that_can_be_retried_is_shown(stage: Stage, caller: str) -> None:
    stage.set(one=error(429, "rate_limit_error", "no words", headers={"retry-after": "7"}))
    reply = stage.post(caller, "one", messages=conversation("another"))
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")


def test_it_needs_no_retry_budget_and_leaves_the_target_up(
    stage: Stage, caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_now: float) -> bool:
        return False

    monkeypatch.setattr(stage.here.messages._revisions.current.gateway._upstreams.budget, "take", refuse)
    stage.set(one=REPLY)
    for number in range(6):
        assert stage.post(f"{caller}-{number}", "one", messages=conversation("another")).status_code == 200
    (state,) = [one for one in stage.here.messages.state().targets if one.target.provider == "one" and one.calls]
    assert state.state == "up"


def test_it_is_not_tried_after_the_deadline(stage: Stage, caller: str) -> None:
    with timed(stage.here.messages, Timing(failover_within=1e-9)):
        assert stage.post(caller, "one", messages=conversation("another")).status_code == 400
    assert stage.ends(caller) == [("one", "refused")]


def test_it_is_off_by_default(stage: Stage, caller: str) -> None:
    reply = stage.post(caller, "off", messages=conversation("another"))
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, WORDS)
    assert "bud-dropped" not in reply.headers
    assert stage.ends(caller) == [("one", "refused")]


@pytest.mark.parametrize("words", ["prompt is too long: 9 tokens > 8 maximum", "messages.1: Field required"])
def test_another_400_is_passed_on_at_once(stage: Stage, caller: str, words: str) -> None:
    stage.set(one=error(400, "invalid_request_error", words))
    reply = stage.post(caller, "one", messages=conversation("one"))
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, words)
    assert stage.ends(caller) == [("one", "refused")]


def test_a_large_conversation_is_changed_too(stage: Stage, caller: str) -> None:
    stage.set(one=REPLY)
    text = {"type": "text", "text": "sunny, \u00e9 " * 40_000}
    messages = conversation("another", text, {**CALL, "input": {"n": [1.5, -0.0]}}, following=RESULT)
    assert_whole(stage.post(caller, "one", messages=messages), stream=False)
    assert sent(stage.sent("one")[1])["messages"] == cleared(messages)


@pytest.mark.parametrize("first", ["one", "google"])
def test_tokens_are_counted_without_it_too(stage: Stage, caller: str, first: str) -> None:
    messages = conversation("another")
    headers = {"x-api-key": caller, "anthropic-version": "2023-06-01"}
    stage.set(**{first: json_body({"input_tokens": 21})})
    url, body = f"{stage.here.base_url}/v1/messages/count_tokens", {"model": first, "messages": messages}
    reply = httpx.post(url, json=body, headers=headers, timeout=30)
    assert (reply.status_code, reply.content) == (200, b'{"input_tokens":21}')
    assert reply.headers["bud-dropped"] == "messages.thinking"
    assert [sent(request)["messages"] for request in stage.sent(first)] == [messages, cleared(messages)]
    assert stage.account(caller).usage is None


def test_a_client_s_own_credential_goes_with_both_attempts() -> None:
    with StandIn(api_key="sk-ant-the-clients", signer="here").in_thread() as upstream:
        provider = Anthropic(auth="client", base_url=upstream.base_url)
        routes = [Route("*", ["anthropic"], retry_without_thinking=True)]
        with gateway("", providers=[provider], auth=Anonymous(), routes=routes) as here:
            headers = {"x-api-key": "sk-ant-the-clients", "anthropic-version": "2023-06-01"}
            reply = here.post({"messages": conversation("another")}, headers=headers)
        assert reply.status_code == 200
        assert [request.header("x-api-key") for request in upstream.requests] == [b"sk-ant-the-clients"] * 2


def test_the_official_sdk_goes_on_with_a_conversation_of_another_service(stage: Stage, caller: str) -> None:
    stage.set(aws=thinking("Hm.", "It is sunny."), one=REPLY)
    options: Any = {"base_url": stage.here.base_url, "max_retries": 0, "default_headers": {"x-api-key": caller}}
    with anthropic.Anthropic(api_key=caller, **options) as client:
        asked: Any = {"model": "aws", "max_tokens": 2000, "thinking": ENABLED, "messages": [QUESTION]}
        begun = client.messages.create(**asked)
        assert [block.type for block in begun.content] == ["thinking", "text"]
        messages = [QUESTION, {"role": "assistant", "content": begun.content}, QUESTION]
        following: Any = {**asked, "model": "one", "messages": messages}
        reply: Any = client.messages.create(**following)
        assert reply.content[0].text == SAID
        with client.messages.stream(**following) as stream:
            assert stream.get_final_text() == SAID
            assert stream.response.headers["bud-dropped"] == "messages.thinking"
    assert refusals(stage.sent("one")) == [WORDS, None] * 2
    assert sent(stage.sent("one")[0])["model"] == MODEL
