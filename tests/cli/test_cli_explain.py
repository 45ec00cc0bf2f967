"""`bud-asgi explain`: what happened to one request, from what `serve` and hosts have logged."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result
from pythonjsonlogger.json import JsonFormatter as PythonJsonLogger
from support.access import access_records
from support.calls import UPSTREAM_KEY
from support.gateway import gateway, provider

from bud_asgi import Route
from bud_asgi.attempt import AttemptEnd
from bud_asgi.cli.commands import group
from bud_asgi.cli.explain import ENDS, OUTCOMES, WIDTH
from bud_asgi.protocol.errors import Outcome
from bud_asgi.telemetry import JsonFormatter
from bud_asgi.testing import StandIn, text

DOCS = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def line(request_id: str = "req_1", **fields: Any) -> str:
    usual = {
        "time": "2026-11-30T09:19:13.042Z",
        "level": "info",
        "request_id": request_id,
        "operation": "messages.create",
        "status": 200,
        "outcome": "answered",
        "milliseconds": 812.4,
        "revision": 1,
    }
    return json.dumps({**usual, **fields})


def explain(log: str | bytes, *words: str) -> Result:
    return CliRunner().invoke(group, ["explain", *(words or ("req_1",))], input=log)


def story_of(log: str, *words: str) -> str:
    """The story on single spaces, so that it does not matter where a line is wrapped."""
    result = explain(log, *words)
    assert result.exit_code == 0, result.output
    assert all(len(one) <= WIDTH and one.isprintable() for one in result.output.splitlines())
    return " ".join(result.output.split())


def test_the_story_of_the_documentation_is_that_of_its_line() -> None:
    (logged,) = re.findall(r"```json\n(\{\"time.*?)```", DOCS, re.DOTALL)
    ((request_id, shown),) = re.findall(
        r"```console\n\$ bud-asgi explain (\w+) < access.log\n(.*?)```", DOCS, re.DOTALL
    )
    assert explain(logged, request_id).output == shown


def test_a_failover_is_shown_in_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bud_asgi.access")
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        upstream.enqueue(text("Hello"))
        providers = [provider("http://127.0.0.1:1", name="first"), provider(upstream.base_url, name="second")]
        with gateway("", providers=providers, routes=[Route("*", to=["first", "second"])], access_log=True) as here:
            response = here.post({"stream": True})
            here.account()
    request_id = response.headers["request-id"]
    assert [one["request_id"] for one in access_records(caplog)] == [request_id]
    for formatter in (JsonFormatter(), PythonJsonLogger()):
        log = "\n".join(formatter.format(record) for record in caplog.records)
        story = story_of(log, request_id)
        positions = [
            story.index(words)
            for words in (
                f"Request {request_id}: messages.create, streamed",
                "arrived from 127.0.0.1",
                "caller: me",
                "the body was read",
                "attempt 1 began, at first",
                "attempt 1 ended: not_sent: no connection",
                "attempt 2 began, at second",
                "attempt 2: the upstream began to answer",
                "the response began with status 200; the gateway added",
                "ended: answered: the reply was delivered (status 200)",
                "tokens:",
            )
        ]
        assert positions == sorted(positions)


def test_every_end_and_every_outcome_has_words() -> None:
    assert ENDS.keys() == set(get_args(AttemptEnd))
    assert OUTCOMES.keys() == set(get_args(Outcome))


REFUSED = {"status": 429, "outcome": "refused", "error_type": "rate_limit_error"}


@pytest.mark.parametrize(
    ("end", "is_logged"), [("not_sent", True), ("broken", True), ("overloaded", False), ("refused", False)]
)
def test_who_reads_it_is_sent_to_the_messages_only_for_what_is_logged_there(end: AttemptEnd, is_logged: bool) -> None:
    attempt = {"target": "anthropic", "start_milliseconds": 1.0, "milliseconds": 2.0, "end": end}
    assert ("on stderr" in story_of(line(attempts=[attempt]))) is is_logged


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({**REFUSED, "refused_by": "60 requests per minute"}, "refused by the limit of 60 requests per minute"),
        ({**REFUSED}, "ended: refused: the gateway refused the request (status 429, rate_limit_error)"),
        ({"over_limits": ["9 tokens per day"]}, "over the observed limit of 9 tokens per day"),
        ({"operation": None, "method": "PUT", "path": "/x"}, "PUT /x arrived from an unknown address"),
        ({"principal": "ci", "team": "web"}, "caller: ci, team web"),
        ({}, "no caller: not authenticated"),
        ({"requested_model": "nope"}, "model: nope, without a route"),
        (
            {"requested_model": "c[1m]", "model": "c", "route": "c*"},
            "model: c, requested as c[1m], by the route c*",
        ),
        ({"status": None, "outcome": "client_gone"}, "the client disconnected first (no status was sent)"),
        ({"input_tokens": 1200, "thinking_tokens": 5, "estimated": True}, "tokens: 1,200 input, 5 for thinking (est"),
        ({"dropped": ["speed", "top_k"]}, "left out for this target: speed, top_k"),
        ({"longest_gap_milliseconds": 4000.0}, "longest pause of the stream: 4,000.0 ms"),
        ({"upstream_request_id": "req_up", "trace_id": TRACE}, f"id at the upstream: req_up trace: {TRACE}"),
        ({"revision": 4}, "revision of the configuration: 4"),
        ({"attempts": [{"target": "p", "start_milliseconds": 1.5}]}, "+1.5 ms the attempt began, at p"),
    ],
)
def test_what_is_in_the_line_is_in_the_story(fields: dict[str, Any], words: str) -> None:
    assert words in story_of(line(**fields))


def test_hedged_attempts_are_shown_in_the_order_of_their_times() -> None:
    attempts = [
        {"target": "b", "start_milliseconds": 500.0, "milliseconds": 200.0, "end": "cancelled"},
        {"target": "a", "start_milliseconds": 1.0, "milliseconds": 800.0, "end": "answered", "status": 200},
    ]
    story = story_of(line(attempts=attempts))
    assert story.index("began, at a") < story.index("began, at b") < story.index("attempt 1 ended")


@pytest.mark.parametrize("wanted", [TRACE, "req_2"])
def test_all_requests_with_an_id_are_shown_in_the_order_of_their_arrival(wanted: str) -> None:
    later = line("req_2", trace_id=TRACE, time="2026-11-30T09:20:00.000Z")
    earlier = line("req_1", trace_id=TRACE, upstream_request_id="req_2")
    other = line("req_3", principal=wanted)  # the id as something else does not count
    story = story_of("\n".join([later, other, earlier]), wanted)
    assert story.startswith("2 requests have this id. In the order of their arrival: Request req_1:")
    assert story.index("Request req_1") < story.index("Request req_2")
    assert "req_3" not in story


@pytest.mark.parametrize(
    "noise",
    [
        "",
        "2026-11-30 INFO: req_1 started",
        '{"request_id": "req_1"}',
        '{"request_id": "req_1", "bud": {}}',
        '{"request_id":"req_1"',
        line(time="yesterday"),
        line(milliseconds=1e300),
        line(status="200"),
        '{"request_id":"req_1","a":' + "[" * 2000,
        "\udcff" * 9 + '"request_id" req_1',
    ],
)
def test_other_lines_are_skipped(noise: str) -> None:
    log = "\n".join([noise, line(principal="the-one"), noise]).encode("utf-8", "surrogateescape")
    result = explain(log)
    assert (result.exit_code, result.output.count("caller: the-one")) == (0, 1)


def test_a_prefix_before_the_json_is_ignored() -> None:
    assert "Request req_1" in story_of(f"gateway-1  | {line()}")


def test_a_forged_name_cannot_reach_the_terminal() -> None:
    assert "caller: a\\n\\u001b[2Jb" in story_of(line(principal="a\n\x1b[2Jb"))


def test_several_files_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(line(f"req_{name}", trace_id=TRACE))
    story = story_of("", TRACE, str(tmp_path / "a"), str(tmp_path / "b"))
    assert ("req_a" in story, "req_b" in story) == (True, True)


def test_an_unknown_id_is_an_error_with_what_to_check() -> None:
    result = explain(f"{line()}\n{line(time='2026-11-30T10:00:00.000Z')}", "req_9")
    assert result.exit_code == 1
    words = " ".join(result.stderr.split())
    assert "no request has the id 'req_9'. 2 requests were read" in words
    assert "2026-11-30T09:19:13 to 2026-11-30T10:00:00 (UTC)" in words
    assert "every worker and replica" in words
    result = explain("text\ntext", "req_9")
    assert result.exit_code == 1
    assert "None of the 2 lines is a request in JSON" in " ".join(result.stderr.split())


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert explain("", "req_1", str(tmp_path / "none")).exit_code == 2
