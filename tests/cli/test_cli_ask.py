"""`ask`: one request through a file, with its account."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from cli_process import UPSTREAM_KEY, gateway_file
from click.testing import CliRunner, Result
from support.calls import MODEL

from bud_asgi.cli.commands import group
from bud_asgi.testing import Reply, StandIn, ThreadedStandIn, error_mid_stream, text

MORE = f"""models = ["claude-opus-*"]

[[routes]]
model = "fast"
to = [{{ provider = "anthropic", model = "{MODEL}" }}]

[[routes]]
model = "*"
to = ["anthropic"]
"""


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as stand_in:
        yield stand_in


@pytest.fixture
def file(upstream: ThreadedStandIn, tmp_path: Path) -> str:
    return str(gateway_file(tmp_path, upstream.base_url, MORE))


def ask(*words: str, stdin: str | None = None, key: str = UPSTREAM_KEY) -> Result:
    return CliRunner().invoke(group, ["ask", *words], input=stdin, env={"ANTHROPIC_API_KEY": key})


def test_the_answer_goes_to_stdout_and_its_account_to_stderr(upstream: ThreadedStandIn, file: str) -> None:
    upstream.enqueue(text("Good morning\x1b[2J."))
    shown = ask(file, "fast", "Hello")
    assert (shown.exit_code, shown.stdout) == (0, "Good morning\x1b[2J.\n")  # in a pipe, what the model wrote
    names = [line[:12].strip() for line in shown.stderr.splitlines()]
    assert names == ["request", "route", "attempt", "tokens", "time", "stop reason"]
    assert f"route       fast\nattempt     anthropic as {MODEL}: answered, 200, req_" in shown.stderr
    assert "tokens      6 input, 6 output\n" in shown.stderr
    sent = upstream.requests[-1].json()
    assert (sent["model"], sent["max_tokens"], sent["stream"]) == (MODEL, 1024, True)
    assert sent["messages"] == [{"role": "user", "content": "Hello"}]


def test_the_text_can_come_from_stdin(upstream: ThreadedStandIn, file: str) -> None:
    assert ask(file, "fast", "-", "--max-tokens", "7", stdin="From a pipe\n").exit_code == 0
    sent = upstream.requests[-1].json()
    assert (sent["messages"][0]["content"], sent["max_tokens"]) == ("From a pipe\n", 7)


def test_json_has_the_answer_and_its_account(file: str) -> None:
    shown = ask("--json", file, "fast", "Hello")
    assert (shown.exit_code, shown.stderr) == (0, "")
    result = json.loads(shown.stdout)
    assert (result["text"], result["error"]) == ('Hello from the stand-in! You said: "Hello".', None)
    account = result["account"]
    assert (account["principal"], account["route"], account["stop_reason"]) == ("operator", "fast", "end_turn")
    assert [(one["provider"], one["model"], one["end"]) for one in account["attempts"]] == [
        ("anthropic", MODEL, "answered")
    ]


REFUSED: dict[str, tuple[list[str], str]] = {
    "an unknown model": (["claude-does-not-exist"], "error: 404 not_found_error: model: claude-does-not-exist\n"),
    "a model that the key may not use": (
        ["claude-haiku-4-5", "--principal", "me"],
        "error: 403 permission_error: model: claude-haiku-4-5 is not among the models that you may use\n",
    ),
}


@pytest.mark.parametrize(("words", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_an_error_has_status_1(words: list[str], problem: str, file: str) -> None:
    shown = ask(file, words[0], "Hello", *words[1:])
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert problem in shown.stderr


def test_the_words_of_the_upstream_about_our_credential_are_shown(file: str) -> None:
    shown = ask(file, "fast", "Hello", key="sk-ant-CANARY")
    assert shown.exit_code == 1
    assert "anthropic rejected our credential: " in shown.stderr
    assert "invalid x-api-key" in shown.stderr
    assert "error: 502 api_error: upstream authentication failed" in shown.stderr
    assert "CANARY" not in shown.output


def test_a_stream_that_breaks_off_has_status_1(upstream: ThreadedStandIn, file: str) -> None:
    upstream.enqueue(error_mid_stream("overloaded_error", "Overloaded"))
    shown = ask(file, "fast", "Hello")
    assert shown.exit_code == 1
    assert shown.stdout.startswith("The stand")
    assert "error: overloaded_error: Overloaded\n" in shown.stderr


def test_events_of_other_apis_are_ignored(upstream: ThreadedStandIn, file: str) -> None:
    event = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n'
    body = b"".join([event, event.replace(b'"Hi"', b"1"), b"data: [DONE]\n\n"])
    upstream.enqueue(Reply(body=body, headers=(("content-type", "text/event-stream"),)))
    assert ask(file, "fast", "Hello").stdout == "Hi\n"


def test_bytes_that_are_not_text_are_replaced(upstream: ThreadedStandIn, file: str) -> None:
    assert ask(file, "fast", "caf\udce9").exit_code == 0
    assert upstream.requests[-1].json()["messages"][0]["content"] == "caf\ufffd"


def test_a_provider_that_gets_the_clients_key_gets_the_one_of_the_environment(
    upstream: ThreadedStandIn, tmp_path: Path
) -> None:
    file = gateway_file(tmp_path, upstream.base_url)
    file.write_text(file.read_text().replace('api_key = "env:ANTHROPIC_API_KEY"', 'auth = "client"'))
    assert ask(str(file), MODEL, "Hello").exit_code == 0
    refused = ask(str(file), MODEL, "Hello", key="sk-ant-CANARY")
    assert "error: 401 authentication_error: invalid x-api-key" in refused.stderr


WRONG: dict[str, tuple[list[str], str]] = {
    "no text": ([MODEL], "expected [GATEWAY.TOML] MODEL TEXT, with TEXT in quotation marks"),
    "a file and no text": (["x.toml", MODEL], "expected [GATEWAY.TOML] MODEL TEXT, with TEXT in quotation marks"),
    "a text without quotation marks": (["x.toml", MODEL, "Hello", "there"], "with TEXT in quotation marks"),
    "a file that is not there": (["nope.toml", MODEL, "Hello"], "error: nope.toml: cannot read the file"),
}


@pytest.mark.parametrize(("words", "problem"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_have_status_2(words: list[str], problem: str) -> None:
    shown = ask(*words)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert problem in shown.stderr


def test_an_unknown_caller_has_status_2(file: str) -> None:
    shown = ask(file, MODEL, "Hello", "--principal", "c")
    assert shown.exit_code == 2
    assert 'has the name "c"' in shown.stderr
