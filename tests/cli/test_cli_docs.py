"""docs/configuration.md and docs/alone.md are true: each file loads, each command runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, is_typeddict

import anthropic
import click
import httpx
import msgspec
import pytest
from cli_process import BUD_ASGI, KEY, UPSTREAM_KEY, environment, served
from click.testing import CliRunner
from support.calls import MODEL
from support.ports import free_port
from support.waiting import answers, wait_until

from bud_asgi import hash_api_key
from bud_asgi.cli.commands import ask, check, group, init, route, serve, stand_in
from bud_asgi.config import read_file, tables
from bud_asgi.telemetry import AccessLine
from bud_asgi.testing import StandIn

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION, ALONE = (DOCS / "configuration.md").read_text(), (DOCS / "alone.md").read_text()
ROUTING, OBSERVABILITY = (DOCS / "routing.md").read_text(), (DOCS / "observability.md").read_text()
TOML = re.findall(r"```toml\n(.*?)```", CONFIGURATION + ROUTING, re.DOTALL)
FIRST = re.findall(r"```toml\n(.*?)```", ROUTING, re.DOTALL)[0]
SHELL = re.findall(r"```sh\n(.*?)```", ALONE, re.DOTALL)
PROVIDER = '[providers.anthropic]\nkind = "anthropic"\napi_key = "env:ANTHROPIC_API_KEY"\n'
BEDROCK = '[providers.bedrock]\nkind = "bedrock"\nregion = "us-east-1"\n'
KEYS = f'[[keys]]\nname = "me"\nhash = "{hash_api_key(KEY)}"\n'
HASH = re.compile(r"sha256:[0-9a-f]{64}")


@pytest.mark.parametrize("snippet", TOML, ids=range(len(TOML)))
def test_a_file_loads(snippet: str, tmp_path: Path) -> None:
    """A snippet shows a part of a file: a provider and keys are added if it has none."""
    (tmp_path / "secrets").mkdir()
    for name in ("anthropic", "bedrock"):
        (tmp_path / "secrets" / name).write_text("sk-secret\n")
    key = {"type": "service_account", "client_email": "a", "private_key": "b", "token_uri": "c"}
    (tmp_path / "secrets" / "vertex.json").write_text(json.dumps(key))
    providers = "" if "[providers." in snippet else PROVIDER + BEDROCK * ('"bedrock"' in snippet)
    keys = "" if "[[keys]]" in snippet or "allow_anonymous" in snippet else KEYS
    file = tmp_path / "gateway.toml"
    file.write_text(f"{snippet}\n{providers}{keys}")
    read_file(file, environ={"ANTHROPIC_API_KEY": UPSTREAM_KEY, "SECOND_API_KEY": UPSTREAM_KEY}).app()


TABLES = [value for value in vars(tables).values() if is_typeddict(value)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_key_is_documented(table: type[Any]) -> None:
    for key in table.__annotations__:
        assert re.search(rf"`\[*{key}\b", CONFIGURATION), key


def test_the_errors_are_those_that_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (shown,) = re.findall(r"```text\n(.*?)```", CONFIGURATION, re.DOTALL)
    (tmp_path / "gateway.toml").write_text(
        '[providers.anthropic]\nkind = "anthropic"\napi_key = "sk-ant-CANARY"\n'
        '[[keys]]\nname = "ci"\nhsah = "x"\n[[routes]]\nmodel = "*"\nto = ["anthropic", "vertex"]\n'
    )
    assert CliRunner().invoke(group, ["check", "gateway.toml"]).stderr == shown


def test_the_file_of_the_first_steps_lacks_only_the_key_that_they_create(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```toml\n(.*?)```", ALONE, re.DOTALL)
    (tmp_path / "gateway.toml").write_text(snippet)
    created = CliRunner().invoke(group, ["keys", "new", "ci"])
    (tmp_path / "gateway.toml").write_text(snippet + created.stdout)
    checked = ["check", str(tmp_path / "gateway.toml")]
    assert CliRunner().invoke(group, checked, env={"ANTHROPIC_API_KEY": UPSTREAM_KEY}).exit_code == 0


def commands(block: str) -> tuple[dict[str, str], list[str]]:
    """The variables that a block exports, and its other lines."""
    lines = block.splitlines()
    exported = [shlex.split(line)[1] for line in lines if line.startswith("export ")]
    return dict(one.split("=", 1) for one in exported), [line for line in lines if not line.startswith("export ")]


@pytest.mark.parametrize("block", SHELL, ids=range(len(SHELL)))
def test_its_commands_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = KEY
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        if "bud-asgi init" not in block:
            (tmp_path / "gateway.toml").write_text(f'{PROVIDER}base_url = "{upstream.base_url}"\n{KEYS}')
        exported, lines = commands(HASH.sub(hash_api_key(KEY), block))
        exported |= {"ANTHROPIC_API_KEY": UPSTREAM_KEY, "ANTHROPIC_BASE_URL": upstream.base_url}
        exported |= {"HOME": str(tmp_path), "OLD_KEY": "an-old-key-of-some-kind"}
        for line in lines:
            if "serve" in line or "uvicorn" in line:
                serve_and_ask(line, exported, tmp_path, key)
                continue
            if not re.search("[>|]", line):
                ran = CliRunner().invoke(group, shlex.split(line)[1:], env=exported)
                assert ran.exit_code == 0, ran.stderr
                key = ran.stdout.strip() if "init" in line else key
                continue
            script, environ = line.replace("bud-asgi ", f"{shlex.join(BUD_ASGI)} "), environment(**exported)
            ran = subprocess.run(
                ["sh", "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path, env=environ
            )
            assert ran.returncode == 0, ran.stderr


def serve_and_ask(line: str, exported: dict[str, str], folder: Path, key: str) -> None:
    words = shlex.split(line)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        exported[name] = value
    command = [*BUD_ASGI, *words[1:]] if words[0] == "bud-asgi" else [sys.executable, "-m", *words]
    with (
        served([*command, "--port", "0"], environment(**exported), cwd=folder) as server,
        anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0) as client,
    ):
        client.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "Hello"}])


def test_the_log_config_for_uvicorn_writes_our_lines(tmp_path: Path) -> None:
    (tmp_path / "logging.json").write_text(re.findall(r"```json\n(\{\n.*?)```", OBSERVABILITY, re.DOTALL)[0])
    port = str(free_port())
    factory = [sys.executable, "-m", "uvicorn", "--factory", "bud_asgi.config:from_env", "--port", port]
    environ = environment(BUD_ASGI_ALLOW_ANONYMOUS="1", BUD_ASGI_ACCESS_LOG="1")
    command = [*factory, "--log-config", "logging.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environ) as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), "the server answers")
        httpx.post(f"http://127.0.0.1:{port}/v1/messages")
        process.terminate()
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["status"] == 400


def test_the_access_line_of_the_page_is_one() -> None:
    (shown,) = re.findall(r"```json\n(\{\"time.*?)```", OBSERVABILITY, re.DOTALL)
    assert msgspec.json.encode(msgspec.json.decode(shown, type=AccessLine, strict=True)) == shown.strip().encode()


def test_every_option_of_serve_is_documented() -> None:
    for option in (name for parameter in serve.params for name in parameter.opts if name.startswith("--")):
        assert f"`{option}`" in ALONE, option


def test_every_command_is_documented() -> None:
    for name in group.commands:
        assert f"| `{name}` |" in ALONE, name


@pytest.mark.parametrize("command", [ask, check, init, stand_in], ids=lambda command: command.name)
def test_every_option_of_the_other_commands_is_documented(command: click.Command) -> None:
    (section,) = re.findall(rf"### {command.name}\n(.*?)\n##", ALONE, re.DOTALL)
    for option in (name for parameter in command.params for name in parameter.opts if name.startswith("--")):
        assert f"`{option}" in section, option


def test_every_option_of_route_is_documented() -> None:
    for option in (name for parameter in route.params for name in parameter.opts if name.startswith("--")):
        assert f"`{option}" in ROUTING, option


def test_routes_in_code_are_those_of_the_file(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", ROUTING, re.DOTALL)[0], names)
    file = tmp_path / "gateway.toml"
    file.write_text(FIRST + KEYS)
    settings = read_file(file, environ={"ANTHROPIC_API_KEY": UPSTREAM_KEY, "SECOND_API_KEY": UPSTREAM_KEY})
    assert settings.routes == tuple(names["routes"])


def test_linked_files_exist() -> None:
    for name in re.findall(r"\]\(([\w./]+)[)#]", CONFIGURATION + ALONE + ROUTING + OBSERVABILITY):
        assert (DOCS / name).exists(), name
