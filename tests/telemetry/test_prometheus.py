"""The values behind the metrics: the same as `prometheus_client` counts, and never more series than are bounded."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as TheirHistogram
from support.calls import BODY, HEADERS
from support.counts import examples
from support.gateway import messages_app, provider
from support.scrapes import labels_of, read_samples, total
from support.virtual_time import VirtualLoop, run_in_virtual_time

from bud_asgi import Exchange, Limit, MessagesApp, Observer, Route, RouteTable, Target, Usage
from bud_asgi.attempt import Attempt
from bud_asgi.options import OptionError
from bud_asgi.protocol.errors import STATUS_OF_TYPE
from bud_asgi.protocol.usage import OutputTokensDetails
from bud_asgi.telemetry.prometheus import RequestCounts, SharedMetrics
from bud_asgi.telemetry.prometheus.exposition import SHARED_DIRECTORY
from bud_asgi.telemetry.prometheus.merging import merge
from bud_asgi.telemetry.prometheus.metrics import (
    DURATION,
    IN_FLIGHT,
    LOOP_LAG,
    METRICS,
    READY,
    REFUSALS,
    REQUESTS,
    TOKENS,
    Labels,
)
from bud_asgi.telemetry.prometheus.observer import STATUSES, status_label
from bud_asgi.telemetry.prometheus.series import MAX_NAMES, MAX_SERIES, Histogram, Names, Series, Value
from bud_asgi.telemetry.prometheus.shared import FRESH, SharedFile, Snapshot, read_all


class Resolved:
    """A route of a host's own router."""

    def __init__(self, model: Any) -> None:
        self.model: Any = model

    def choose(self, exchange: Exchange) -> list[Target]:
        raise NotImplementedError


def settled(counts: Observer, **fields: Any) -> Exchange:
    """Count a request with these fields of its record."""
    exchange = Exchange.of({"type": "http", "method": "POST", "path": "/v1/messages", "headers": []})
    exchange.operation, exchange.outcome, exchange.status = "messages.create", "answered", 200
    for name, value in fields.items():
        setattr(exchange, name, value)
    exchange.ended = exchange.started + 1
    for attempt in exchange.attempts:
        attempt.ended, attempt.end = exchange.ended, "answered"
        counts.attempt_ended(exchange, attempt)
    counts.settled(exchange)
    return exchange


@pytest.fixture
def series() -> Series:
    return Series()


@pytest.fixture
def counts(series: Series) -> RequestCounts:
    return RequestCounts(series, Names())


def test_metrics_are_named_as_prometheus_wants() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("bud_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_seconds") == ("seconds" in metric.name)
        assert set(metric.named) <= set(metric.labels)
        assert metric.help.endswith(".")
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert bool(metric.bounds) == (metric.kind == "histogram")


@examples(30)
@given(st.lists(st.one_of(st.floats(0, 1000), st.sampled_from(DURATION.bounds)), max_size=30))
def test_a_histogram_has_the_buckets_of_prometheus_client(values: list[float]) -> None:
    ours, registry = Histogram(DURATION.bounds), CollectorRegistry()
    theirs = TheirHistogram("h", "h", registry=registry, buckets=DURATION.bounds)
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    buckets = [sample.value for sample in next(iter(theirs.collect())).samples if sample.name == "h_bucket"]
    assert [sum(ours.counts[: at + 1]) for at in range(len(ours.counts))] == buckets
    assert ours.sum == pytest.approx(sum(values))


def test_tokens_are_counted_by_kind(counts: RequestCounts, series: Series) -> None:
    usage = Usage(1, 20, 300, 4000, output_tokens_details=OutputTokensDetails(7))
    attempt, table = Attempt(Target("p", "m")), RouteTable([Route("claude-*", to=["p"])])
    settled(counts, usage=usage, route=table.resolve("claude-x", None), attempts=[attempt])
    settled(counts, usage=Usage(1, None), route=table.resolve("claude-y", None), attempts=[attempt])
    found = series.values()[TOKENS.name]
    kinds = {"input": 2, "output": 20, "cache_creation": 300, "cache_read": 4000, "thinking": 7}
    assert found == {(kind, "claude-*", "p/m"): number for kind, number in kinds.items()}


def test_a_request_that_never_had_a_target_has_no_series_of_one(counts: RequestCounts, series: Series) -> None:
    settled(counts, outcome="refused", status=401, error_type="authentication_error")
    assert set(series.values()) == {"bud_requests_total", DURATION.name, "bud_errors_total", LOOP_LAG.name}


@pytest.mark.parametrize(
    ("status", "label"), [(200, "200"), (529, "529"), (418, "4xx"), (299, "2xx"), (700, "other"), (-1, "other")]
)
def test_statuses_are_a_closed_set(status: int, label: str) -> None:
    assert status_label(status) == label
    assert len({status_label(number) for number in range(-10, 1000)}) == len(STATUSES) + 6


@pytest.mark.parametrize(
    "name", ["\ud800", 'a\nb"\\\x1b[2J\u2028', 'x"} 1\nbud_ready 0', "x" * 10_000, object(), 7, None]
)
def test_no_name_breaks_a_scrape(name: Any) -> None:
    metrics = messages_app("http://127.0.0.1:1").metrics()
    attempt = Attempt(Target("p", "m"))
    msgspec.structs.force_setattr(attempt.target, "model", name if isinstance(name, str) else "m")
    settled(metrics.observers[0], route=Resolved(name), attempts=[attempt])
    found = read_samples(generate_latest(metrics.registry).decode())
    assert total(found, REQUESTS.name) == 1
    assert total(found, READY.name) == 1
    ((_, _, _, route, target),) = labels_of(found, REQUESTS.name)
    assert max(len(route), len(target)) <= 100


def test_names_that_a_host_computes_are_bounded(counts: RequestCounts, series: Series) -> None:
    """As if a router function made a route and a target of every model, and a key had a limit of its own each."""
    for number in range(5000):
        target = Attempt(Target(f"p{number % 7}", f"m{number}"))
        limit = Limit("requests", number + 1)
        settled(counts, route=Resolved(f"model-{number}"), attempts=[target], refused_by=limit, status=number)
        settled(counts, error_type=f"kind_{number}", outcome="refused", status=number)
    found = series.values()
    routes = {labels[3] for labels in found[REQUESTS.name]}
    assert len(routes) == MAX_NAMES + 2  # and `none`, and `other`
    assert len({labels[4] for labels in found[REQUESTS.name]}) == MAX_NAMES + 2
    assert len({labels[0] for labels in found[REFUSALS.name]}) <= MAX_NAMES + 1
    assert sum(map(len, found.values())) < 8 * MAX_NAMES
    assert sum(number for number in found[REQUESTS.name].values() if isinstance(number, int)) == 10_000
    assert len(counts._by_request) <= 4096
    assert len(counts._by_attempt) <= 4096
    assert {kind for _, kind in found["bud_errors_total"]} <= {*STATUS_OF_TYPE, "other"}


def test_all_pairs_of_names_are_bounded(series: Series) -> None:
    for route in range(MAX_NAMES):
        for target in range(MAX_NAMES):
            series.counter(TOKENS, ("input", f"r{route}", f"t{target}")).value += 1
    found = series.values()[TOKENS.name]
    assert len(found) == MAX_SERIES + 1
    assert found["input", "other", "other"] == MAX_NAMES**2 - MAX_SERIES


async def test_nothing_that_a_client_sends_is_a_label() -> None:
    """Thousands of values in every place that a client fills."""
    routes = [Route("claude-*", to=["anthropic"]), Route("gpt-*", to=[Target("anthropic", "claude-haiku-4-5")])]
    messages = messages_app("", providers=[provider("http://127.0.0.1:1")], routes=routes)
    metrics = messages.metrics()
    for number in range(400):
        await send_hostile(messages, f"CANARY{number}", number)
    text = generate_latest(metrics.registry).decode()
    assert "CANARY" not in text
    found = read_samples(text)
    assert total(found, REQUESTS.name) == 400
    assert len(found) < 150


async def send_hostile(messages: MessagesApp, value: str, number: int) -> None:
    """One request; the upstream cannot be reached, so that it may have any model."""
    body = msgspec.json.encode(
        {**BODY, "model": f"{('claude-', 'gpt-', '')[number % 3]}{value}", "metadata": {"user_id": value}}
    )
    headers = {
        **HEADERS,
        "user-agent": value,
        value: value,
        "anthropic-beta": value,
        "x-api-key": value if number % 5 == 0 else HEADERS["x-api-key"],
    }
    path = "/v1/messages" if number % 4 else f"/v1/{value}"
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST" if number % 7 else value,
        "path": path,
        "raw_path": path.encode(),
        "query_string": value.encode(),
        "headers": [(name.lower().encode(), text.encode()) for name, text in headers.items()],
        "client": (value, 1),
    }
    arriving = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return arriving.pop() if arriving else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message

    await messages(scope, receive, send)


async def test_the_lag_of_the_loop_comes_from_the_ticks_of_its_clock() -> None:
    messages = messages_app("http://127.0.0.1:1")
    metrics, loop = messages.metrics(), messages._loops.get()
    for loop._clock.late in (0.003, 0.3):
        loop.on_tick(loop.now())
    counts, lag = metrics._series.values()[LOOP_LAG.name][()]  # pyright: ignore[reportGeneralTypeIssues]
    assert (sum(counts), lag) == (2, pytest.approx(0.303))
    await messages._loops.aclose()


def test_two_apps_in_one_process_count_apart() -> None:
    one, other = messages_app("http://127.0.0.1:1"), messages_app("http://127.0.0.1:1")
    settled(one.metrics().observers[0])
    assert total(read_samples(generate_latest(one.metrics().registry).decode()), REQUESTS.name) == 1
    assert total(read_samples(generate_latest(other.metrics().registry).decode()), REQUESTS.name) == 0


def test_a_registry_of_the_hosts_has_the_metrics_of_one_app() -> None:
    registry = CollectorRegistry(auto_describe=True)
    one, other = messages_app("http://127.0.0.1:1"), messages_app("http://127.0.0.1:1")
    assert one.metrics(registry) is one.metrics(registry) is one.metrics()
    assert b"bud_ready 1.0" in generate_latest(registry)
    with pytest.raises(OptionError, match="registry: has the metrics of another app already"):
        other.metrics(registry)
    with pytest.raises(OptionError, match="registry: metrics\\(\\) has been called before, with another registry"):
        one.metrics(CollectorRegistry())


LABELS: dict[str, Labels] = {metric.name: tuple(f"{name}-value" for name in metric.labels) for metric in METRICS}


def one_process(number: float, *, metric: Any) -> dict[str, dict[Labels, Value]]:
    value: Value = ((1, 2), number) if metric.kind == "histogram" else number
    return {metric.name: {LABELS[metric.name]: value}}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_values_of_several_processes_become_one(metric: Any) -> None:
    (merged,) = merge([one_process(3, metric=metric), {}, one_process(5, metric=metric)])[metric.name].values()
    if metric.kind == "histogram":
        assert merged == ((2, 4), 8)
    else:
        assert merged == {"sum": 8, "max": 5, "min": 3}[metric.merge]


def test_what_an_ended_process_has_counted_stays_and_its_gauges_do_not(tmp_path: Path) -> None:
    values: dict[str, dict[Labels, Value]] = {REQUESTS.name: {LABELS[REQUESTS.name]: 2}, IN_FLIGHT.name: {(): 7}}
    now = time.time()
    for name, written in (("ended", now - FRESH - 1), ("running", now)):
        (tmp_path / f"{name}.bud_asgi").write_bytes(msgspec.msgpack.encode(Snapshot(written, values)))
    (tmp_path / "broken.bud_asgi").write_bytes(b"\xc1")
    (tmp_path / "counter_1.db").write_bytes(b"of prometheus_client's own")
    assert read_all(tmp_path, now) == {REQUESTS.name: {LABELS[REQUESTS.name]: 4}, IN_FLIGHT.name: {(): 7}}


async def test_processes_share_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two apps stand in for two processes: their files have names of their own."""
    monkeypatch.setenv(SHARED_DIRECTORY, str(tmp_path))
    one, other = (messages_app("http://127.0.0.1:1").metrics() for _ in range(2))
    settled(one.observers[0])
    for metrics in (one, other):
        metrics.start()
    assert total(read_samples(generate_latest(other.registry).decode()), REQUESTS.name) == 1
    settled(other.observers[0])
    for metrics in (one, other):
        metrics.stop()
    registry = CollectorRegistry()
    registry.register(SharedMetrics(tmp_path))
    found = read_samples(generate_latest(registry).decode())
    assert total(found, REQUESTS.name) == 2
    assert total(found, READY.name) == 1


def test_a_process_writes_every_second_also_after_its_loop_was_blocked(tmp_path: Path) -> None:
    writes: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        file = SharedFile(tmp_path, "app", lambda: writes.append(loop.time()) or {})
        file.start()
        await asyncio.sleep(2.5)
        loop._jumping.now += 5  # a blocked loop, in which a request arrives before the timer runs
        file.start()
        await asyncio.sleep(2.5)
        file.stop()

    run_in_virtual_time(run())
    assert [round(at - writes[0], 1) for at in writes] == [0.0, 1.0, 2.0, 7.5, 8.5, 9.5, 10.0]


async def test_a_folder_that_cannot_be_written_is_logged_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = SharedFile(tmp_path / "absent", "app", dict)
    file.start()
    file.stop()
    assert caplog.text.count("cannot write the metrics for other processes") == 1


def test_a_scrape_without_requests_has_every_name() -> None:
    text = generate_latest(messages_app("http://127.0.0.1:1").metrics().registry).decode()
    assert [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")] == [
        metric.name for metric in METRICS
    ]


def test_the_manual_has_every_metric_with_its_labels() -> None:
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `bud_")]
    documented = {row[1].strip(" `"): re.findall(r"`(\w+)`", row[2]) for row in rows}
    assert documented == {metric.name: list(metric.labels) for metric in METRICS}


def test_every_metric_that_the_manual_names_exists() -> None:
    named = {
        (page.name, name)
        for page in (Path(__file__).parents[2] / "docs").glob("*.md")
        if page.name != "testing.md"  # it has fixtures of such names
        for name in re.findall(r"\b(bud_[a-z_]+?)(?:_bucket|_count|_sum)?\b", page.read_text())
        if not name.startswith("bud_asgi")
    }
    names = {metric.name for metric in METRICS}
    assert {(page, name) for page, name in named if name not in names} == set()
