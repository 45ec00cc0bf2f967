"""The access log in the logging setups that hosts have, and its text for people."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter as PythonJsonLogger

from bud_asgi import Exchange, Principal, Target, Usage
from bud_asgi.attempt import Attempt
from bud_asgi.telemetry import AccessLog, JsonFormatter, LineHandler, TextFormatter

DOCS = Path(__file__).parents[2] / "docs" / "observability.md"
EVIL = "a\r\nforged\x1b[31m\x9b\u2028\u202e\x7f\udc80"
SNIPPETS = re.findall(r"```python\n(import logging\n.*?)```", DOCS.read_text(), re.DOTALL)
_log = logging.getLogger("bud_asgi.access")


@pytest.fixture(autouse=True)
def access_logger() -> Generator[None]:
    """The logger as a host configures it, and afterwards as it was."""
    before = _log.handlers[:], _log.level, _log.propagate
    yield
    _log.handlers[:], _log.level, _log.propagate = before


def exchange(**fields: Any) -> Exchange:
    path = fields.pop("path", "/v1/messages")
    one = Exchange.of({"type": "http", "method": "POST", "path": path, "headers": [(b"user-agent", EVIL[:5].encode())]})
    attempt = Attempt(Target("anthropic", "claude-haiku-4-5"), started=one.started, status=200, end="answered")
    usual = {
        "operation": "messages.create",
        "status": 200,
        "outcome": "answered",
        "principal": Principal(id="ci", team="web"),
        "attempts": [attempt],
        "usage": Usage(12, 96, 0, 500),
        "ended": one.started + 0.8124,
        "committed": one.started + 0.25,
    }
    for name, value in {**usual, **fields}.items():
        setattr(one, name, value)
    return one


def logged(formatter: logging.Formatter, **fields: Any) -> str:
    """What a handler with this formatter writes of a request."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    _log.handlers[:], _log.propagate = [handler], False
    _log.setLevel(logging.INFO)
    AccessLog().settled(exchange(**fields))
    (line,) = stream.getvalue().splitlines()
    return line


def assert_complete(fields: dict[str, Any]) -> None:
    assert (fields["principal"], fields["output_tokens"], fields["status"]) == ("ci", 96, 200)
    assert fields["attempts"][0]["end"] == "answered"
    assert fields["request_id"].startswith("req_")


def test_python_json_logger_has_the_fields_below_bud() -> None:
    made = json.loads(logged(PythonJsonLogger("%(levelname)s %(name)s %(message)s")))
    assert_complete(made["bud"])
    assert made["message"] == f"{made['bud']['request_id']}: messages.create 200 answered in 812 ms"
    assert (made["levelname"], made["name"]) == ("INFO", "bud_asgi.access")


def test_structlog_has_the_fields_below_bud() -> None:
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()]
    render: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.JSONRenderer(),
    ]
    made = json.loads(
        logged(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=render), status=529)
    )
    assert made["bud"]["status"] == 529
    assert made["level"] == "warning"
    assert made["event"].endswith(": messages.create 529 answered in 812 ms")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_the_examples_of_the_page_run(snippet: str) -> None:
    exec(snippet, {})


def test_structlog_on_a_terminal_is_one_line() -> None:
    render: list[Any] = [structlog.dev.ConsoleRenderer(colors=False)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processors=render
    )
    assert "forged" in logged(formatter, operation=None, path=f"/{EVIL}")


def test_logging_config_can_name_our_formatter() -> None:
    stream = io.StringIO()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"requests": {"()": "bud_asgi.telemetry.JsonFormatter"}},
            "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "requests", "stream": stream}},
            "loggers": {"bud_asgi.access": {"handlers": ["out"], "level": "INFO", "propagate": False}},
        }
    )
    AccessLog().settled(exchange())
    assert_complete(json.loads(stream.getvalue()))


def test_a_plain_format_shows_the_short_message() -> None:
    line = logged(logging.Formatter("%(levelname)s %(message)s"), operation=None, path=f"/x{EVIL}", status=404)
    assert line.startswith("INFO req_")
    assert line.endswith("POST /xa\\r\\nforged\\u001b[31m\\u009b\\u2028\\u202e\\u007f\\udc80 404 answered in 812 ms")


def test_attributes_that_a_host_gives_its_records_do_not_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_ids(*given: Any, **named: Any) -> logging.LogRecord:
        record = logging.LogRecord(*given, **named)
        record.__dict__ |= dict.fromkeys(
            ["request_id", "trace_id", "status", "time", "level", "client_address"], "host"
        )
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", with_ids)
    made = json.loads(logged(PythonJsonLogger()))
    assert_complete(made["bud"])
    assert made["request_id"] == "host"


def test_the_json_of_another_record_is_one_printable_line() -> None:
    record = logging.LogRecord("bud_asgi.access", logging.WARNING, "x.py", 1, "of %s", (EVIL,), None)
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line)["message"].startswith("of a\r\nforged")
    assert json.loads(line)["level"] == "warning"


def test_what_a_filter_of_the_host_adds_is_encoded() -> None:
    record = logging.makeLogRecord({"bud": {"request_id": "req_1", "host": object}})
    assert json.loads(JsonFormatter().format(record)) == {"request_id": "req_1", "host": "<class 'object'>"}


# For people.

BARE = TextFormatter()


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({}, ["200", "messages.create", "ci", "anthropic/claude-haiku-4-5", "812 ms", "12 in, 96 out, 500 cached"]),
        ({"status": 404, "operation": None, "outcome": "refused", "attempts": [], "usage": None}, ["404", "POST /v1/"]),
        ({"outcome": "upstream_failed", "error_type": "api_error"}, ["200 upstream_failed", "api_error"]),
        ({"outcome": "client_gone", "status": None}, ["- client_gone"]),
        ({"usage": Usage(3, 4, estimated=True)}, ["~3 in, 4 out"]),
        ({"attempts": [Attempt(Target("a")), Attempt(Target("b"))]}, ["b", "2 attempts"]),
    ],
)
def test_the_text_shows_what_matters(fields: dict[str, Any], parts: list[str]) -> None:
    line = logged(BARE, **fields)
    for part in parts:
        assert part in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("color", "fields"),
    [
        ("\x1b[32m200\x1b[0m", {}),
        ("\x1b[33m429\x1b[0m", {"status": 429, "outcome": "refused"}),
        ("\x1b[31m529\x1b[0m", {"status": 529}),
        ("\x1b[31m200 upstream_failed\x1b[0m", {"outcome": "upstream_failed"}),
    ],
)
def test_the_status_has_the_colour_of_its_level(color: str, fields: dict[str, Any]) -> None:
    assert color in logged(TextFormatter(colors=True), **fields)
    assert "\x1b" not in logged(BARE, **fields)


def test_nothing_that_a_client_sends_reaches_the_terminal_as_it_is() -> None:
    fields = {"operation": None, "path": f"/{EVIL}", "error_type": EVIL, "principal": None}
    line = logged(TextFormatter(colors=True), **fields)
    colors = ("\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m")
    assert line.count("\x1b[31m") == 0
    for color in colors:
        line = line.replace(color, "")
    assert line.isprintable()


def test_the_text_of_the_page_is_that_of_its_json() -> None:
    page = DOCS.read_text()
    (shown,) = re.findall(r"```text\n(\d\d:\d\d.*?)\n```", page)
    (logged,) = re.findall(r"```json\n(\{\"time.*?)\n```", page)
    record = logging.LogRecord("bud_asgi.access", logging.INFO, "", 0, "", (), None)
    record.__dict__["bud"] = json.loads(logged)
    assert BARE.format(record)[8:] == shown[8:]


def test_a_line_handler_with_text_writes_text(tmp_path: Any) -> None:
    with (tmp_path / "log").open("w") as file:
        handler = LineHandler(file)
        handler.setFormatter(TextFormatter())
        _log.handlers[:], _log.propagate = [handler], False
        _log.setLevel(logging.INFO)
        AccessLog().settled(exchange())
        handler.flush()
    assert "messages.create" in (tmp_path / "log").read_text()
    assert "{" not in (tmp_path / "log").read_text()
