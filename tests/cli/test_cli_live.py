"""`check --live`: each target is called, cheaply, and a failure comes with what to do."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from cli_process import UPSTREAM_KEY, gateway_file
from click.testing import CliRunner, Result
from support.calls import MODEL

from bud_asgi import Anthropic, Bedrock, Route, Secret, Vertex
from bud_asgi.cli.commands import group
from bud_asgi.cli.live import LiveResult, call_providers
from bud_asgi.config import Settings
from bud_asgi.testing import StandIn, ThreadedStandIn, bedrock
from bud_asgi.testing.server.replies import Failure, Reply


@pytest.fixture(scope="module")
def upstream() -> Generator[ThreadedStandIn]:
    with StandIn(api_key=UPSTREAM_KEY, models=[MODEL]).in_thread() as stand_in:
        yield stand_in


def check(*words: str, key: str = UPSTREAM_KEY) -> Result:
    return CliRunner().invoke(group, ["check", "--live", *words], env={"ANTHROPIC_API_KEY": key})


ONE = f'[[routes]]\nmodel = "{MODEL}"\nto = ["anthropic"]\n'
CLAUDE_CODE = '[[routes]]\nmodel = "claude-*"\nto = [{ provider = "anthropic", model = "claude-haiku-4-5" }]\n'
OTHERS = '[[routes]]\nmodel = "*"\nto = ["anthropic"]\n'


def test_every_target_is_called_and_tokens_are_counted(upstream: ThreadedStandIn, tmp_path: Path) -> None:
    before = len(upstream.requests)
    shown = check(str(gateway_file(tmp_path, upstream.base_url, ONE + OTHERS)))
    assert (shown.exit_code, shown.stderr) == (0, "")
    head, *rows = (line.split()[:3] for line in shown.stdout.splitlines()[-3:])
    assert head == ["PROVIDER", "MODEL", "ANSWER"]
    assert rows == [["anthropic", MODEL, "answered"], ["anthropic", "-", "answered"]]
    paths = sorted(request.path for request in upstream.requests[before:])
    assert paths == [b"/v1/messages/count_tokens", b"/v1/models"]  # which are free


def test_a_refused_key_is_an_error_with_its_line_and_what_to_do(upstream: ThreadedStandIn, tmp_path: Path) -> None:
    file = gateway_file(tmp_path, upstream.base_url, ONE + CLAUDE_CODE)
    shown = check(str(file), key="sk-ant-CANARY")
    assert shown.exit_code == 1
    assert shown.stderr == (
        f"error: {file}:1: providers.anthropic: {MODEL}: 401 invalid x-api-key; check the value that api_key refers to:"
        " it may be expired, revoked or of another account\n"
    )
    as_json = check("--json", str(file), key="sk-ant-CANARY")
    assert (as_json.exit_code, as_json.stderr) == (1, "")
    assert '"status": 401' in as_json.stdout
    assert "CANARY" not in shown.output + as_json.output


def failure(status: int, type_: str, message: str) -> Reply:
    return Reply(status=status, body=Failure(type_, message))


FAILS = "the provider fails: try again, and look at its status page"
ANSWERS: dict[str, tuple[list[Reply], str, str]] = {
    "tokens cannot be counted": ([failure(404, "not_found_error", "no")], "answered in", ""),
    "no capacity": (
        [failure(529, "overloaded_error", "Overloaded")],
        "529 Overloaded",
        "the provider accepts the credential but has no capacity now: try again, or raise the quota",
    ),
    "a key without the permission": (
        [failure(403, "permission_error", "not allowed")] * 2,
        "403 not allowed",
        "the key may not use this model or workspace: check its permissions in the console",
    ),
    "an unknown model": (
        [failure(404, "not_found_error", "model: x")] * 2,
        "404 model: x",
        "check the name of the model, and base_url",
    ),
    "a page": (
        [Reply(status=502, body=b"<html>", headers=(("content-type", "text/html"),))],
        "502 text/html",
        FAILS,
    ),
    "an error that repeats the key": ([failure(500, "api_error", f"bad {UPSTREAM_KEY}")], "500 bad [secret]", FAILS),
}


def called(provider: Anthropic | Vertex) -> LiveResult:
    """The result of one provider, for one model."""
    settings = Settings(source="x", providers=(provider,), routes=(Route(MODEL, [provider.name]),))
    (result,) = call_providers(settings)
    return result


@pytest.mark.parametrize(("replies", "message", "advice"), ANSWERS.values(), ids=ANSWERS.keys())
def test_each_failure_has_its_advice(
    upstream: ThreadedStandIn, replies: list[Reply], message: str, advice: str
) -> None:
    upstream.enqueue(*replies)
    result = called(Anthropic(api_key=Secret(UPSTREAM_KEY), base_url=upstream.base_url))
    assert result.message.startswith(message)
    assert (result.ok, result.advice or "") == (not advice, advice)


@pytest.mark.parametrize("proxy", ["", "http://proxy"])
def test_a_provider_that_cannot_be_reached(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    result = called(Anthropic(base_url="http://127.0.0.1:1", name="local"))
    assert (result.ok, result.outcome) == (False, "failed: no answer")
    assert "127.0.0.1:1" in result.message
    assert ("the proxy of HTTPS_PROXY" in (result.advice or "")) == bool(proxy)


def test_a_provider_that_gets_the_clients_key_has_only_to_be_reachable(upstream: ThreadedStandIn) -> None:
    result = called(Anthropic(auth="client", base_url=upstream.base_url))
    assert (result.ok, result.message) == (True, "reachable; each client sends its own key")


def test_bedrock_is_called_with_signed_requests() -> None:
    aws = bedrock.Bedrock()
    key = aws.keys.issue_temporary()
    with StandIn.of(aws).in_thread() as stand_in:
        options: dict[str, Any] = {"region": aws.region, "endpoint": stand_in.base_url, "access_key": key.access_key}
        good = Bedrock(**options, secret_key=key.secret_key, session_token=key.session_token)
        wrong = Bedrock(**options, secret_key="CANARY", session_token=key.session_token, name="wrong")
        routes = (Route("claude-haiku-4-5", ["bedrock", "wrong"]),)
        results = call_providers(Settings(source="x", providers=(good, wrong), routes=routes))
    assert [(one.provider, one.ok) for one in results] == [("bedrock", True), ("wrong", False)]
    assert results[1].advice is not None
    assert "CANARY" not in str(results)


def test_missing_google_credentials_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nope.json"))
    result = called(Vertex(project="p", base_url="http://127.0.0.1:1"))
    assert not result.ok
    assert result.advice == "run `gcloud auth application-default login`, or set service_account_file"
