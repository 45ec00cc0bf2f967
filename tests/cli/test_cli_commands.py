"""`check`, `keys new`, `demo`, and what they share: exit statuses, colours, missing extras."""

from __future__ import annotations

import os
import platform
import pty
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
from cli_process import BUD_ASGI, KEY, UPSTREAM_KEY, environment, gateway_file
from click.testing import CliRunner, Result

from bud_asgi import Secret, __version__, hash_api_key
from bud_asgi.cli.commands import group, serve
from bud_asgi.cli.warnings import warnings_of
from bud_asgi.config import read_file
from bud_asgi.config.reading import SERVE_OPTIONS

ROUTES = """models = ["fast"]
team = "ours"

[[limits]]
requests = 60
[[limits]]
requests = 1000
window = "1h"
per = "all"

[[routes]]
model = "fast"
to = [{ provider = "anthropic", model = "claude-haiku-4-5" }, "anthropic"]

[[routes]]
model = "claude-opus-*"
to = ["anthropic"]
"""

SHOWN = """FILE is valid. It serves:

MODEL          PROVIDER   UPSTREAM MODEL    ADDRESS
fast           anthropic  claude-haiku-4-5  https://api.anthropic.com
               anthropic  (as requested)    https://api.anthropic.com
claude-opus-*  anthropic  (as requested)    https://api.anthropic.com

KEY  TEAM  MODELS
me   ours  fast

LIMIT                    FOR
60 requests per minute   each principal
1,000 requests per hour  all
"""
UNSERVED = (
    "warning: FILE:19: routes: no route serves claude-sonnet-5-5, claude-haiku-5-5, claude-fable-5-2, "
    "which Claude Code also requests in the background\n"
)


def check(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(group, ["check", *words], env={"ANTHROPIC_API_KEY": UPSTREAM_KEY, **environ})


def test_check_shows_what_would_be_served_and_warns(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=ROUTES)
    shown = check(str(file))
    expected = [text.replace("FILE", str(file)) for text in (SHOWN, UNSERVED)]
    assert (shown.exit_code, [shown.stdout, shown.stderr]) == (0, expected)


def test_check_reads_the_environment_without_a_file() -> None:
    shown = check(BUD_ASGI_ALLOW_ANONYMOUS="1")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == (
        "environment is valid. It serves:\n\n"
        "MODEL  PROVIDER   UPSTREAM MODEL  ADDRESS\n"
        "*      anthropic  (as requested)  https://api.anthropic.com\n\n"
        "No keys: everyone is admitted.\n\nNo limits.\n"
    )


CLOUDS = """allow_anonymous = true

[providers.amazon]
kind = "bedrock"
region = "eu-west-1"

[providers.vpc]
kind = "bedrock"
region = "eu-west-1"
endpoint = "vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com:8443"
profile = "CANARY"

[providers.google]
kind = "vertex"
project = "p"
region = "eu"

[[routes]]
model = "claude-*"
to = ["amazon", "vpc", { provider = "google", model = "claude-opus-5" }]
"""
CLOUDS_SHOWN = """
MODEL     PROVIDER  UPSTREAM MODEL  ADDRESS
claude-*  amazon    (as requested)  https://bedrock-runtime.eu-west-1.amazonaws.com
          vpc       (as requested)  https://vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com:8443
          google    claude-opus-5   https://aiplatform.eu.rep.googleapis.com

"""
WITHOUT_NETWORK = """
import sys
sys.addaudithook(lambda event, _: sys.exit(event) if event.startswith("socket.") else None)
from bud_asgi.cli import main
try:
    main()
finally:
    assert not {"botocore", "aiobotocore", "google.auth"} & set(sys.modules)
"""


def test_check_shows_the_addresses_of_clouds_without_calling_them(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(CLOUDS)
    command = [sys.executable, "-W", "error", "-c", WITHOUT_NETWORK, "check", str(tmp_path / "gateway.toml")]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert (shown.returncode, shown.stderr) == (0, "")
    assert CLOUDS_SHOWN in shown.stdout
    assert "CANARY" not in shown.stdout


def test_check_reports_problems_with_their_lines(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more='team = ""\n')
    shown = check(str(file))
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == f"error: {file}:9: keys[0].team: must not be empty\n"


@pytest.mark.parametrize(
    ("served", "warned_of"),
    [
        (["claude-*"], []),
        (["*"], []),
        (["claude-opus-5-5", "claude-sonnet-*", "claude-haiku-5-5"], ["claude-fable-5-2"]),
        (["claude-opus-*", "claude-fable-*"], ["claude-sonnet-5-5", "claude-haiku-5-5"]),
    ],
)
def test_check_warns_about_unserved_models_that_claude_code_requests(
    served: list[str], warned_of: list[str], tmp_path: Path
) -> None:
    routes = "".join(f'[[routes]]\nmodel = "{model}"\nto = ["anthropic"]\n' for model in served)
    settings = read_file(gateway_file(tmp_path, more=routes), environ={"ANTHROPIC_API_KEY": "k"})
    words = f"no route serves {', '.join(warned_of)}, which Claude Code also requests in the background"
    assert [warning.message for warning in warnings_of(settings)] == ([words] if warned_of else [])


def test_a_new_key_goes_to_its_owner_and_its_lines_into_the_file(tmp_path: Path) -> None:
    file = gateway_file(tmp_path)
    shown = CliRunner().invoke(group, ["keys", "new", 'the "new" one'])
    assert shown.exit_code == 0
    key = shown.stderr.splitlines()[0]
    assert key.startswith("sk-bud-")
    assert key not in shown.stdout
    file.write_text(file.read_text() + shown.stdout)
    kept = read_file(file, environ={"ANTHROPIC_API_KEY": "k"}).keys
    assert [(one.name, one.hash) for one in kept] == [("me", hash_api_key(KEY)), ('the "new" one', hash_api_key(key))]


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_a_key_needs_a_name(name: str) -> None:
    shown = CliRunner().invoke(group, ["keys", "new", name])
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "must be printable and not empty" in shown.stderr


def in_terminal(*words: str, **environ: str) -> str:
    """What a command writes to stderr where that is a terminal."""
    ours, its = pty.openpty()
    try:
        subprocess.run([*BUD_ASGI, *words], stderr=its, stdout=its, check=False, env=environment(**environ))
        return os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(its)


def test_a_terminal_gets_colours_unless_no_color_is_set() -> None:
    assert "\x1b[31merror:\x1b[0m nope.toml: " in in_terminal("check", "nope.toml")
    for words in (["check", "nope.toml"], ["keys", "new", "x"]):
        shown = CliRunner().invoke(group, words, env={"NO_COLOR": ""}, color=True)
        assert "\x1b" in shown.stderr
        shown = CliRunner().invoke(group, words, env={"NO_COLOR": "1"}, color=True)
        assert "\x1b" not in shown.stderr


def test_demo_is_a_command() -> None:
    shown = CliRunner().invoke(group, ["demo", "--real"], env={"ANTHROPIC_API_KEY": ""})
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == "error: --real requires ANTHROPIC_API_KEY; without --real the demo needs no key\n"


@pytest.mark.parametrize(
    ("missing", "words", "message"),
    [
        ("click", ["serve"], "error: bud-asgi needs click: pip install '.[server]' in a checkout of bud_asgi\n"),
        ("uvicorn", ["--help"], "error: bud-asgi needs uvicorn: pip install '.[server]' in a checkout of bud_asgi\n"),
        (
            "anthropic",
            ["demo"],
            "error: bud-asgi demo needs anthropic: pip install '.[demo]' in a checkout of bud_asgi\n",
        ),
    ],
)
def test_a_missing_extra_is_named(missing: str, words: list[str], message: str) -> None:
    code = f"""
import sys
class Missing:
    def find_spec(self, name, *_):
        if name == {missing!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
from bud_asgi.cli import main
main()
"""
    shown = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=environment()
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (2, "", message)


@pytest.mark.parametrize("module", ["bud_asgi", "bud_asgi.cli"])
def test_the_package_can_be_run_as_a_module(module: str) -> None:
    shown = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[0] == f"bud-asgi {__version__}"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *([name, "-h"] for name in group.commands),
        ["keys", "new", "-h"],
        ["keys", "hash", "-h"],
        ["limits", "show", "-h"],
    ],
    ids=" ".join,
)
def test_each_command_has_help(words: list[str]) -> None:
    shown = CliRunner().invoke(group, words, prog_name="bud-asgi")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("Usage: bud-asgi ")
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "..." not in shown.stdout.replace("]...", "")  # the list of commands shows no sentence that is cut


def test_the_version_has_what_a_bug_report_needs() -> None:
    shown = CliRunner().invoke(group, ["--version"])
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (shown.exit_code, lines["bud-asgi"]) == (0, __version__)
    assert lines["python"] == f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    found = ", ".join(lines.values())
    for library in ("starlette", "msgspec", "httptools", "uvicorn", "botocore", "google-auth", "redis", "psycopg"):
        assert f"{library} {version(library)}" in found
    extras = {name.partition(";")[0] for name in metadata("bud-asgi").get_all("Provides-Extra") or ()} - {"all"}
    assert extras == lines.keys() - {"bud-asgi", "python", "requires"}


def test_a_library_that_is_missing_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bud_asgi.cli.version.version", _raise_not_found)
    shown = CliRunner().invoke(group, ["--version"])
    assert "bedrock    not installed\n" in shown.stdout


def _raise_not_found(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_it(shell: str) -> None:
    words = CliRunner().invoke(group, [], prog_name="bud-asgi", env={"_BUD_ASGI_COMPLETE": f"{shell}_source"}).stdout
    assert "_BUD_ASGI_COMPLETE" in words


def test_completion_offers_commands_and_options() -> None:
    environ = {"_BUD_ASGI_COMPLETE": "bash_complete", "COMP_WORDS": "bud-asgi serve --ssl", "COMP_CWORD": "2"}
    offered = CliRunner().invoke(group, [], prog_name="bud-asgi", env=environ).stdout
    assert offered.splitlines() == [f"plain,--ssl-{name}" for name in ("certfile", "keyfile", "keyfile-password")]


def test_an_option_of_serve_in_the_file_is_recognized() -> None:
    assert {parameter.name for parameter in serve.params} - {"config"} == SERVE_OPTIONS


EXISTING = "an-existing-key-of-some-kind"
HASHES: dict[str, tuple[list[str], str]] = {
    "the hash": ([], f"{hash_api_key(EXISTING)}\n"),
    "the lines for a file": (["ci"], f'\n[[keys]]\nname = "ci"\nhash = "{hash_api_key(EXISTING)}"\n'),
    "with a pepper": (["--pepper", "PEPPER"], f"{hash_api_key(EXISTING, Secret('pepper'))}\n"),
}


@pytest.mark.parametrize(("words", "expected"), HASHES.values(), ids=HASHES.keys())
def test_an_existing_key_is_read_from_stdin_and_hashed(words: list[str], expected: str) -> None:
    shown = CliRunner().invoke(group, ["keys", "hash", *words], input=f"{EXISTING}\n", env={"PEPPER": "pepper"})
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, expected, "")


WRONG_KEYS: dict[str, tuple[list[str], str, int, str]] = {
    "a key as an argument": (["sk-ant-CANARY"], "", 2, "the key itself is read from stdin\n"),
    "no key": ([], "", 2, "error: key: a secret must be visible ASCII without spaces or line breaks, and not empty\n"),
    "two keys": ([], "CANARY a\nb", 2, "a secret must be visible ASCII without spaces or line breaks, and not empty\n"),
    "a short key": (
        [],
        "CANARY",
        0,
        "warning: the key has fewer than 20 characters: it can be guessed from its hash\n",
    ),
}


@pytest.mark.parametrize(("words", "stdin", "status", "problem"), WRONG_KEYS.values(), ids=WRONG_KEYS.keys())
def test_what_is_not_a_good_key_is_reported(words: list[str], stdin: str, status: int, problem: str) -> None:
    shown = CliRunner().invoke(group, ["keys", "hash", *words], input=stdin)
    assert shown.exit_code == status
    assert shown.stderr.endswith(problem)
    assert "CANARY" not in shown.output


@pytest.mark.parametrize("module", ["bud_asgi", "bud_asgi.config"])
def test_only_the_command_line_needs_uvicorn_and_click(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('uvicorn', 'click') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
