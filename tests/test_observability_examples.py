"""The dashboard and the alert rules in the examples: each query names metrics, labels and values that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import promql_parser
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from bud_asgi.attempt import AttemptEnd
from bud_asgi.limit import Mode
from bud_asgi.protocol.errors import Outcome
from bud_asgi.state import Availability, Breaker
from bud_asgi.telemetry.prometheus.exposition import families
from bud_asgi.telemetry.prometheus.metrics import METRICS, NONE
from bud_asgi.telemetry.prometheus.observer import KINDS, STATUSES

FOLDER = Path(__file__).parent.parent / "examples" / "observability"
ADDED_BY_THE_SERVER = {"job", "instance"}
"""Labels that a Prometheus server adds to every series that it scrapes."""

VALUES: Mapping[tuple[str, str], set[str]] = {
    ("bud_requests_total", "outcome"): set(get_args(Outcome)),
    ("bud_requests_total", "status"): {str(status) for status in STATUSES},
    ("bud_requests_total", "route"): {NONE},
    ("bud_requests_total", "target"): {NONE},
    ("bud_attempts_total", "end"): set(get_args(AttemptEnd)),
    ("bud_tokens_total", "kind"): set(KINDS),
    ("bud_limit_refusals_total", "mode"): set(get_args(Mode)),
    ("bud_retry_budget_total", "result"): {"taken", "returned", "refused"},
    ("bud_target_state", "state"): set(get_args(Availability)),
    ("bud_target_breaker", "state"): set(get_args(Breaker)),
    ("bud_request_duration_seconds_bucket", "stream"): {"true", "false"},
    ("bud_time_to_first_event_seconds_bucket", "stream"): {"true", "false"},
}
"""The values of labels that queries select by."""


class Everything:
    """A collector of all metrics, each with one series."""

    def collect(self) -> Iterator[Family]:
        return families(
            {
                metric.name: {metric.labels: ((0,) * (len(metric.bounds) + 1), 0.0) if metric.bounds else 1.0}
                for metric in METRICS
            }
        )


def exposed() -> Mapping[str, set[str]]:
    """The samples of a scrape, by name, with the names of their labels."""
    registry = CollectorRegistry()
    registry.register(Everything())
    text = generate_latest(registry).decode()
    return {one.name: set(one.labels) for family in text_string_to_metric_families(text) for one in family.samples}


EXPOSED = exposed()
DASHBOARD: dict[str, Any] = msgspec.json.decode((FOLDER / "dashboard.json").read_bytes())
RULES: list[dict[str, Any]] = msgspec.yaml.decode((FOLDER / "alerts.yaml").read_bytes())["groups"][0]["rules"]
PANELS = [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
QUERIES = {
    **{f"{title} {target['refId']}": target["expr"] for title, target in PANELS},
    **{rule["alert"]: rule["expr"] for rule in RULES},
}


def parsed(query: str) -> promql_parser.Expr:
    """A query, with a duration in place of Grafana's variable."""
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    """The expression and all parts of it."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(expression: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """What an expression selects, also over a time."""
    selected: list[promql_parser.VectorSelector] = []
    for node in nodes(expression):
        if isinstance(node, promql_parser.MatrixSelector):
            selected.append(node.vector_selector)
        elif isinstance(node, promql_parser.VectorSelector):
            selected.append(node)
    return selected


@pytest.mark.parametrize("name", QUERIES)
def test_each_query_and_its_aggregations_name_what_is_exposed(name: str) -> None:
    expression = parsed(QUERIES[name])
    found = selectors(expression)
    assert found
    for selector in found:
        metric = str(selector.name)
        assert metric in EXPOSED
        for matcher in selector.matchers.matchers:
            assert matcher.name in EXPOSED[metric] | ADDED_BY_THE_SERVER, matcher.name
            if not matcher.value.startswith("$"):
                assert set(matcher.value.split("|")) <= VALUES[metric, matcher.name], matcher.value
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            for selector in selectors(node.expr):
                assert set(node.modifier.labels) <= EXPOSED[str(selector.name)] | ADDED_BY_THE_SERVER


def labels_of_result(expression: promql_parser.Expr) -> set[str]:
    """The labels of a result: what its first aggregation is by, but for the buckets."""
    for node in nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr):
            return set(node.modifier.labels if node.modifier is not None else ()) - {"le"}
    return set()


def test_each_legend_has_labels_of_its_query() -> None:
    for title, target in PANELS:
        named = set(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]))
        assert named <= labels_of_result(parsed(target["expr"])), title


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_has_happened(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
    assert set(re.findall(r"\$labels\.(\w+)", summary)) <= labels_of_result(parsed(rule["expr"]))
    assert description.endswith(".")
    for named in re.findall(r"bud_\w+", description):
        assert named in EXPOSED or f"{named}_bucket" in EXPOSED
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}


def test_the_variables_of_the_dashboard_exist() -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+)(?:{.*})?, (\w+)\)", variable["definition"]).groups()  # pyright: ignore[reportOptionalMemberAccess]
            assert label in EXPOSED[metric] | ADDED_BY_THE_SERVER
    used = set(re.findall(r"\$(\w+)", " ".join(target["expr"] for _, target in PANELS)))
    assert used == {"__rate_interval", "job", "instance", "route", "target"}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        area = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not area & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= area


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    used = {
        re.sub(r"_(bucket|count|sum)$", "", str(one.name))
        for query in QUERIES.values()
        for one in selectors(parsed(query))
    }
    assert {metric.name for metric in METRICS} - used == {"bud_config_revision", "bud_credential_age_seconds"}


def test_the_configuration_of_the_server_loads_the_rules() -> None:
    config = msgspec.yaml.decode((FOLDER / "prometheus.yml").read_bytes())
    assert config["rule_files"] == ["alerts.yaml"]
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_the_manual_has_every_alert() -> None:
    text = (FOLDER.parent.parent / "docs" / "observability.md").read_text()
    assert re.findall(r"^\| `(Bud\w+)` ", text, re.MULTILINE) == [rule["alert"] for rule in RULES]
