"""The metrics of OpenTelemetry, and that no caller can make them grow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import (  # pyright: ignore[reportMissingTypeStubs]
    gen_ai_attributes,
    http_attributes,
    url_attributes,
)
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas
from support.calls import BODY
from support.captured import Captured
from support.gateway import provider
from support.telemetry import Attributes, Signals

from bud_asgi import Principal, Route, Target
from bud_asgi.telemetry.opentelemetry import Content, attributes, metrics
from bud_asgi.testing import eof_mid_event, error, text
from telemetry.traced_stage import USAGE, Stage, traced_stage

DOCS = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
SLOW = text("Hi there", usage=USAGE, delay=0.01)
DURATION, TOKENS = "gen_ai.client.operation.duration", "gen_ai.client.token.usage"
FIRST, PER = "gen_ai.client.operation.time_to_first_chunk", "gen_ai.client.operation.time_per_output_chunk"
ORACLES = (gen_ai_attributes, http_attributes, url_attributes, error_attributes, server_attributes)


def sums(points: list[tuple[Attributes, Any]], *names: str) -> dict[tuple[Any, ...], tuple[int, float]]:
    """The count and the sum of a histogram by the values of some attributes."""
    return {tuple(found.get(name) for name in names): (point.count, point.sum) for found, point in points}


def test_all_names_are_those_of_the_conventions() -> None:
    known = {value for oracle in ORACLES for value in vars(oracle).values() if isinstance(value, str)}
    ours = {name: value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)}
    ours = {name: value for name, value in ours.items() if not name.startswith(("_", "BUD_", "SCHEMA", "OTHER"))}
    assert len(ours) > 24
    assert {name: value for name, value in ours.items() if value not in known} == {}
    assert all(vars(attributes)[name].startswith("bud.") for name in vars(attributes) if name.startswith("BUD_"))
    assert error_attributes.ErrorTypeValues.OTHER.value == attributes.OTHER
    assert attributes.SCHEMA_URL in {schema.value for schema in Schemas}
    known_metrics = {value for value in vars(gen_ai_metrics).values() if isinstance(value, str)}
    assert {metrics.OPERATION_DURATION, metrics.TOKEN_USAGE} <= known_metrics
    assert {metrics.TIME_TO_FIRST_CHUNK, metrics.TIME_PER_OUTPUT_CHUNK} <= known_metrics


def test_the_docs_name_all_attributes_and_metrics() -> None:
    names = {value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)}
    names |= {value for name, value in vars(metrics).items() if name.isupper() and isinstance(value, str)}
    section = DOCS.partition("## Traces\n")[2].partition("\n## ")[0]
    assert {name for name in names if f"`{name}`" not in section} == {attributes.SCHEMA_URL}
    named = set(re.findall(r"`((?:bud|gen_ai|http|server|url|error)\.[a-z_.]+)`", section))
    assert named - names == set()


def test_the_examples_of_the_docs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    section = DOCS.partition("## Traces\n")[2].partition("\n## ")[0]
    first, second = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(first, scope)
    exec(second, scope)
    content = Content(input_messages=[1, 2], output_messages=[3], system_instructions=[4], tool_definitions=[5])
    assert scope["latest_message"](content) == Content([2], [3], [], [])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_values_are_those_of_the_conventions() -> None:
    from bud_asgi import Anthropic, Bedrock, Vertex

    oracle: Any = gen_ai_attributes  # its classes are marked as moved to another repository
    providers = {one.value for one in oracle.GenAiProviderNameValues}
    clouds = [Bedrock(region="us-east-1", access_key="a", secret_key="b"), Vertex(project="my-project")]
    services = [one.traits.service for one in (Anthropic(api_key="k"), *clouds)]
    assert services == ["anthropic", "aws.bedrock", "gcp.vertex_ai"]
    assert set(services) <= providers
    assert "chat" in {one.value for one in oracle.GenAiOperationNameValues}
    assert {"input", "output"} <= {one.value for one in oracle.GenAiTokenTypeValues}


def test_the_metrics_of_requests_and_attempts() -> None:
    with traced_stage(Signals()) as stage:
        stage.reset()
        stage.post("pair")
        stage.upstreams[0].always(SLOW)
        stage.post("pair", stream=True)
        stage.upstreams[0].always(error(529, "overloaded_error", "busy"))
        stage.post("pair")
        stage.here.post({"stream": "yes"})
        stage.upstreams[1].always(eof_mid_event())
        stage.here.post({"model": "second-choice", "stream": True})
        stage.here.accounts(5)
        found = stage.signals.points()
    ends = sums(found[DURATION], "bud.target", "bud.attempt.end", "error.type")
    assert {key: count for key, (count, _) in ends.items()} == {
        ("one/m-1", "answered", None): 2,
        ("one/m-1", "overloaded", "overloaded_error"): 1,
        ("two/m-2", "answered", None): 1,
        ("two", "broken", "broken"): 1,
    }
    assert all(0 < total < 5 for _, total in ends.values())
    tokens = sums(found[TOKENS], "bud.target", "gen_ai.token.type")
    assert tokens == {
        ("one/m-1", "input"): (2, 74),
        ("one/m-1", "output"): (2, 10),
        ("two/m-2", "input"): (1, 37),
        ("two/m-2", "output"): (1, 5),
    }, "what was only estimated is not counted"
    assert {key: count for key, (count, _) in sums(found[FIRST], "bud.target").items()} == {
        ("one/m-1",): 1,
        ("two",): 1,
    }
    assert sums(found[PER], "bud.target")["one/m-1",][0] == 1
    requests = sums(found["bud.request.duration"], "bud.outcome", "http.response.status_code", "bud.route")
    assert {key: count for key, (count, _) in requests.items()} == {
        ("answered", 200, "pair"): 3,
        ("refused", 400, None): 1,
        ("upstream_failed", 200, "second-*"): 1,
    }
    assert {key: count for key, (count, _) in sums(found["bud.request.added_time"], "bud.route").items()} == {
        ("pair",): 3,
        ("second-*",): 1,
    }


def test_the_points_have_the_attributes_of_the_conventions(stage: Stage) -> None:
    stage.upstreams[0].always(SLOW)
    stage.post("pair", stream=True)
    address = {"server.address": "127.0.0.1", "server.port": int(stage.upstreams[0].base_url.rpartition(":")[2])}
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "m-1",
        "gen_ai.response.model": "m-1",
        "bud.target": "one/m-1",
        **address,
    }
    found = stage.signals.points()
    for name, more in (
        (FIRST, {}),
        (PER, {}),
        (TOKENS, {"gen_ai.token.type": "input"}),
        (DURATION, {"bud.attempt.end": "answered"}),
    ):
        assert {**common, **more} in [point for point, _ in found[name]], name


def test_no_caller_can_make_the_metrics_grow() -> None:
    signals = Signals()
    captured = Captured(
        providers=[provider("http://127.0.0.1:1")], routes=[Route("*", to=["anthropic"])], observers=[signals.observer]
    )
    for number in range(300):
        text = f"hostile-{number}"
        headers = {"user-agent": text, "x-forwarded-for": text, "traceparent": text, "anthropic-beta": text}
        captured.post({"model": text, "max_tokens": 1, "messages": [{"role": "user", "content": text}]}, headers)
    found = signals.points()
    assert {name: len(points) for name, points in found.items()} == {
        DURATION: 1,
        "bud.request.duration": 1,
        "bud.request.added_time": 1,
    }
    assert found[DURATION][0][0]["gen_ai.request.model"] == "_OTHER"
    assert "hostile" not in str(found)


def test_a_router_function_cannot_make_the_metrics_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def router(model: str, _principal: Principal) -> Route:
        return Route(model, to=[Target("anthropic", model)])

    monkeypatch.setattr(metrics, "MAX_NAMES", 3)
    signals = Signals()
    captured = Captured(
        providers=[provider("http://127.0.0.1:1")],
        routes=router,
        observers=[signals.observer],
    )
    for number in range(9):
        captured.post({**BODY, "model": f"m{number}"})
    found = signals.points()
    assert sums(found[DURATION], "gen_ai.request.model", "bud.target")["_OTHER", "_OTHER"][0] == 6
    assert {name: len(points) for name, points in found.items()} == dict.fromkeys(found, 4)


def test_models_are_named_up_to_a_number_once_an_upstream_has_answered_for_them() -> None:
    with traced_stage(Signals()) as stage:
        instruments = stage.signals.observer._metrics
        stage.reset()
        stage.post("solo")
        assert instruments._models == {"solo"}
        instruments._models.update(f"m{number}" for number in range(metrics.MAX_NAMES))
        stage.post("one-too-many")
        found = sums(stage.signals.points()[DURATION], "gen_ai.request.model", "gen_ai.response.model")
    assert set(found) == {("solo", "solo"), ("_OTHER", "_OTHER")}
