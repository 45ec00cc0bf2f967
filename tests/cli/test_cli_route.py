"""`bud-asgi route`: where a request would go, and why; and `check` for routes that are never used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_process import run
from click.testing import CliRunner, Result

from bud_asgi import Bedrock, Route
from bud_asgi.cli.commands import group
from bud_asgi.cli.reachable import never_used
from bud_asgi.config import Settings, read_file

FILE = """
[providers.anthropic]
kind = "anthropic"
api_key = "env:ANTHROPIC_API_KEY"
[providers.second]
kind = "anthropic"
api_key = "env:ANTHROPIC_API_KEY"
base_url = "http://upstream.internal:8080/sk-proxy-CANARY"
[providers.bedrock]
kind = "bedrock"
region = "us-east-1"

[[keys]]
name = "ci"
hash = "sha256:cf277ebcc1b2c74c0cd9ca18c359aa43bb13815efc75f04ec1e5ecdd6d060f24"
team = "web"
[[keys]]
name = "intern"
hash = "sha256:b8333af2170a90914d19d9dcf5a6a7ef71cc768440f31238d9b13924f7e5be76"
models = ["claude-haiku-*"]

[[routes]]
model = "claude-*"
to = ["bedrock"]
teams = ["web"]
headers = { x-tier = "gold*" }
max_bytes = 100_000
[[routes]]
model = "claude-*"
to = [["anthropic", { provider = "second", weight = 3, concurrency = 20 }], "bedrock"]
[[routes]]
model = "claude-opus-*"
to = ["bedrock"]
[[routes]]
model = "fast"
to = [{ provider = "bedrock", model = "claude-haiku-4-5" }]
"""
MODEL = "claude-opus-4-8"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-opus-4-8"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(FILE)
    return path


def route(file: Path, *words: str) -> Result:
    return CliRunner().invoke(group, ["route", str(file), *words], env={"ANTHROPIC_API_KEY": "sk-ant-CANARY"})


def explained(file: Path, *words: str) -> dict[str, Any]:
    return json.loads(route(file, *words, "--json").stdout)


SHOWN = f"""{MODEL} for ci, 89 bytes: served by routes[1]

ROUTE  MODEL  CONDITIONS  RESULT
routes[3]  fast  -  other models
routes[0]  claude-*  teams web; x-tier: gold*; at most 100000 bytes  the condition headers.x-tier does not hold
routes[1]  claude-*  -  used
routes[2]  claude-opus-*  -  an earlier route is used

GROUP  PROVIDER  WEIGHT  CONCURRENCY  MODEL  URL  DROPPED  NOTE
1  anthropic  1  -  {MODEL}  https://api.anthropic.com/v1/messages  -  -
1  second  3  20  {MODEL}  http://upstream.internal:8080/(not shown)/v1/messages  -  -
2  bedrock  1  -  {MODEL}  {BEDROCK}/invoke  -  -

The targets of a group share the load by affinity.

routes[2] is never used: routes[1] serves all its requests first.
"""


def test_it_shows_the_routes_in_the_order_of_the_look_up_and_the_targets_in_groups(file: Path) -> None:
    shown = run("route", str(file), MODEL, "--principal", "ci")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.sub("  +", "  ", shown.stdout) == SHOWN
    assert "CANARY" not in shown.stdout


def test_a_header_leads_to_another_route(file: Path) -> None:
    shown = explained(file, MODEL, "--principal", "ci", "--header", "X-Tier: gold-1")
    assert shown["route"] == "routes[0]"
    assert [[target["provider"] for target in group] for group in shown["groups"]] == [["bedrock"]]
    assert shown["balance"] is None


def test_it_shows_whether_thinking_that_is_refused_is_left_out(file: Path) -> None:
    words = "If a target refuses the thinking blocks of the conversation, it is tried again without them."
    assert not explained(file, "fast")["retry_without_thinking"]
    assert words not in route(file, "fast").stdout
    file.write_text(f"{FILE}retry_without_thinking = true\n")
    assert explained(file, "fast")["retry_without_thinking"]
    assert words in route(file, "fast").stdout
    assert not explained(file, MODEL)["retry_without_thinking"]


def test_without_a_caller_permissions_are_not_checked_and_conditions_on_it_do_not_hold(file: Path) -> None:
    shown = explained(file, MODEL, "--header", "x-tier:gold")
    assert (shown["route"], shown["principal"], shown["routes"][1]["unmet"]) == ("routes[1]", None, "teams")


def test_a_body_decides_by_its_size_and_shows_what_is_dropped(file: Path, tmp_path: Path) -> None:
    body = {"model": "x", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "workspace_id": "w"}
    (tmp_path / "body.json").write_text(json.dumps({**body, "stream": True, "service_tier": "auto"}))
    options = ["--principal", "ci", "--body", str(tmp_path / "body.json"), "--header", "x-tier:gold"]
    (((target,),), size) = (explained(file, MODEL, *options)[name] for name in ("groups", "bytes"))
    assert target["dropped"] == ["workspace_id", "service_tier"]
    assert target["url"] == f"{BEDROCK}/invoke-with-response-stream"
    assert size < 200
    (tmp_path / "body.json").write_text(json.dumps({**body, "system": "x" * 100_000}))
    assert explained(file, MODEL, *options)["route"] == "routes[1]"


def explained_body(file: Path, fields: dict[str, Any], *words: str) -> list[list[dict[str, Any]]]:
    """The groups for a body with these fields."""
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    (file.parent / "body.json").write_text(json.dumps(body))
    return explained(file, MODEL, "--body", str(file.parent / "body.json"), *words)["groups"]


def test_state_of_one_account_and_what_a_provider_refuses_are_notes_of_targets(file: Path) -> None:
    (first, second), (bedrock,) = explained_body(file, {"container": "container_1"})
    state = "the request names state of one account (container)"
    rejected = "rejects container, which another target accepts"
    assert (first["skipped"], second["skipped"], bedrock["skipped"]) == (None, state, rejected)
    assert (first["refused"], bedrock["refused"]) == (None, "container: Extra inputs are not permitted")
    assert (first["lacks"], bedrock["lacks"], bedrock["later"]) == ([], ["container"], False)


def test_state_of_one_account_stays_where_its_conversation_is_at_home(file: Path) -> None:
    homes: set[str] = set()
    for session in range(40):
        groups = explained_body(file, {"container": "c"}, "--header", f"x-session-id: {session}")
        (home,) = [one["provider"] for group in groups for one in group if one["skipped"] is None]
        homes.add(home)
    assert homes == {"anthropic", "second"}


def test_a_target_that_lacks_a_needed_beta_is_tried_after_those_that_have_it(file: Path) -> None:
    flags = "claude-code-20250219,files-api-2025-04-14"
    (first, _), (bedrock,) = explained_body(file, {}, "--header", f"anthropic-beta: {flags}")
    assert (first["lacks"], first["later"]) == ([], False)
    assert (bedrock["lacks"], bedrock["later"], bedrock["skipped"]) == (["files-api-2025-04-14"], True, None)
    assert bedrock["dropped"] == ["claude-code-20250219", "files-api-2025-04-14"]
    shown = route(file, MODEL, "--header", f"anthropic-beta: {flags}").stdout
    assert "lacks files-api-2025-04-14: tried after the targets that have it" in shown
    shown = route(file, "fast", "--header", f"anthropic-beta: {flags}").stdout
    assert re.search(r"  lacks files-api-2025-04-14$", shown, re.MULTILINE)


def test_a_target_that_does_not_serve_a_further_model_is_skipped(file: Path, tmp_path: Path) -> None:
    body = '{"max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"fallbacks":[{"model":"claude-haiku-4-5"}]}'
    (tmp_path / "body.json").write_text(body)
    text = file.read_text().replace(
        '[[routes]]\nmodel = "fast"\nto = [{ provider = "bedrock", model', "[[routes]]\nmodel"
    )
    file.write_text(re.sub(r'\nmodel = "claude-haiku-4-5" }\]', '\nmodel = "claude-haiku-4-5"\nto = ["second"]', text))
    (first, second), _ = explained(file, MODEL, "--body", str(tmp_path / "body.json"))["groups"]
    assert first["skipped"] == "does not serve all models that the request names"
    assert second["skipped"] is None


def test_the_name_of_the_target_is_sent(file: Path) -> None:
    (((target,),), name) = (explained(file, "fast")[key] for key in ("groups", "route"))
    assert name == "routes[3]"
    assert target["model"] == "claude-haiku-4-5"
    assert target["url"].endswith("/model/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke")


REFUSED: dict[str, tuple[list[str], str | None, str]] = {
    "a model that is not served": (["gpt"], None, "404 not_found_error: model: gpt"),
    "a model that the caller may not use": (
        [MODEL, "--principal", "intern"],
        None,
        f"403 permission_error: model: {MODEL} is not among the models that you may use",
    ),
    "a body that is not JSON": (
        [MODEL],
        "{]",
        "400 invalid_request_error: The request body is not valid JSON: object keys must be strings (byte 1)",
    ),
    "a body without messages": ([MODEL], "{}", "400 invalid_request_error: messages: Field required"),
    "a field that the operator refuses": (
        [MODEL],
        '{"max_tokens":9,"messages":[{}],"amazon-bedrock-trace":"x"}',
        "400 invalid_request_error: amazon-bedrock-trace: Extra inputs are not permitted",
    ),
}


@pytest.mark.parametrize(("words", "body", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_would_be_refused_has_status_1(
    words: list[str], body: str | None, error: str, file: Path, tmp_path: Path
) -> None:
    if body is not None:
        (tmp_path / "body.json").write_text(body)
        words = [*words, "--body", str(tmp_path / "body.json")]
    shown = route(file, *words)
    assert (shown.exit_code, shown.stderr) == (1, f"error: {error}\n")
    assert shown.stdout.splitlines()[0].endswith("bytes: not served")
    parts = explained(file, *words)["error"]
    assert f"{parts['status']} {parts['type']}: {parts['message']}" == error


def test_the_caller_may_have_a_token_and_a_team(file: Path) -> None:
    file.write_text(f'{FILE}[[issuers]]\nurl = "https://login.example.com"\naudience = "bud"\n')
    words = [MODEL, "--principal", "login.example.com:ann", "--header", "x-tier:gold"]
    shown = explained(file, *words, "--team", "web")
    assert (shown["route"], shown["principal"]) == ("routes[0]", "login.example.com:ann")
    assert explained(file, *words)["route"] == "routes[1]"


WRONG: dict[str, tuple[list[str], str]] = {
    "an unknown caller": ([MODEL, "--principal", "interm"], 'has the name "interm" (did you mean "intern"?)'),
    "a team of a key": ([MODEL, "--principal", "intern", "--team", "web"], "only for a --principal with a token"),
    "a header without a colon": ([MODEL, "--header", "x-tier"], "expected NAME:VALUE in printable ASCII"),
    "a header that is no ASCII": ([MODEL, "--header", "x-tier:é"], "expected NAME:VALUE in printable ASCII"),
    "no body": ([MODEL, "--body", "nope.json"], "No such file"),
    "no model": ([], "Missing argument 'MODEL'"),
}


@pytest.mark.parametrize(("words", "problem"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_have_status_2(words: list[str], problem: str, file: Path) -> None:
    shown = route(file, *words)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert problem in shown.stderr


def test_an_invalid_file_has_status_2(file: Path) -> None:
    file.write_text(file.read_text().replace('"second", weight = 3', '"secnd", weight = 3'))
    shown = route(file, MODEL)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "routes[1].to[0][1].provider: unknown provider" in shown.stderr


def test_a_file_without_routes_has_one_provider_for_all(tmp_path: Path) -> None:
    text = 'allow_anonymous = true\n[providers.local]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n'
    (tmp_path / "gateway.toml").write_text(text)
    shown = explained(tmp_path / "gateway.toml", "anything")
    assert (shown["route"], shown["principal"]) == ("(no routes)", "anonymous")
    assert shown["groups"][0][0]["url"] == "http://127.0.0.1:1/v1/messages"


def test_check_shows_groups_and_conditions_where_there_are_any(file: Path) -> None:
    shown = run("check", str(file))
    lines = [re.sub("  +", "  ", line) for line in shown.stdout.splitlines()]
    assert "MODEL  CONDITIONS  GROUP  PROVIDER  WEIGHT  UPSTREAM MODEL  ADDRESS" in lines
    assert "  1  second  3  (as requested)  http://upstream.internal:8080/(not shown)" in lines
    assert f"warning: {file}:31: routes[2]: never used: routes[1] serves all its requests first\n" in shown.stderr


NEVER: dict[str, tuple[Route, str | None]] = {
    "a principal without a key": (Route("m", ["bedrock"], principals=["nobody"]), "no caller matches its principals"),
    "a team without a key": (Route("m", ["bedrock"], teams=["x*"]), "no caller matches its teams"),
    "a principal of another team": (
        Route("m", ["bedrock"], principals=["intern"], teams=["web"]),
        "no caller matches its teams",
    ),
    "a size beyond the largest": (
        Route("m", ["bedrock"], min_bytes=1001),
        "its min_bytes is more than max_body (1000)",
    ),
    "the largest size": (Route("m", ["bedrock"], min_bytes=1000), None),
    "a caller's own": (Route("m", ["bedrock"], principals=["c*"], teams=["web"]), None),
}


@pytest.mark.parametrize(("one", "reason"), NEVER.values(), ids=NEVER.keys())
def test_a_route_that_no_caller_can_reach_is_never_used(one: Route, reason: str | None, file: Path) -> None:
    keys = read_file(file, environ={"ANTHROPIC_API_KEY": "k"}).keys
    provider = Bedrock(region="us-east-1")
    settings = Settings(source="x", providers=(provider,), keys=keys, routes=(one,), max_body=1000)
    assert list(never_used(settings)) == ([(0, reason)] if reason else [])
