"""`bud-asgi keys` on a store, as its users run it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cli_process import BUD_ASGI, KEY, UPSTREAM_KEY, environment, gateway_file, run, served
from click.testing import CliRunner, Result
from support.calls import BODY
from support.ports import free_port
from support.waiting import wait_until

from bud_asgi.auth import hash_api_key, is_api_key
from bud_asgi.cli.commands import group
from bud_asgi.cli.keys import parse_expiry, parse_limit
from bud_asgi.limit import Limit
from bud_asgi.options import OptionError
from bud_asgi.testing import StandIn

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
STORE = '\n[key_store]\nurl = "sqlite:keys.db"\n'


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file with a key of its own, a store, and an upstream credential that is not set."""
    return str(gateway_file(tmp_path, more=STORE.replace("env:", "")))


def keys(*words: str, stdin: str = "", **environ: str) -> Result:
    """Run a command in this process."""
    cleared = {"ANTHROPIC_API_KEY": None, "BUD_ASGI_CONFIG": None, "BUD_ASGI_KEY_STORE": None}
    return CliRunner().invoke(group, ["keys", *words], input=stdin, env={**cleared, **environ})


def created(file: str, name: str, *options: str) -> str:
    """Create a key, and return it."""
    done = keys("create", file, name, *options)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_a_key_is_served_from_its_creation_to_its_deletion(tmp_path: Path) -> None:
    """By a server that is not restarted. The ten seconds are real."""
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        file = str(gateway_file(tmp_path, upstream.base_url, STORE))
        assert run("keys", "migrate", file).returncode == 0
        with served([*BUD_ASGI, "serve", file, "--port", str(free_port())], environment()) as server:

            def status(key: str) -> int:
                headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
                return httpx.post(f"{server.url}/v1/messages", json=BODY, headers=headers).status_code

            key = run("keys", "create", file, "ci").stdout.strip()
            assert [status(KEY), status(key)] == [200, 200]
            new = run("keys", "rotate", file, "ci").stdout.strip()
            assert [status(key), status(new)] == [200, 200]
            assert run("keys", "delete", file, "ci").returncode == 0
            for one in (key, new):  # one after the other: too many failures would be a 429
                wait_until(lambda one=one: status(one) == 401, "the key is refused")
            ended, out, words = server.stop()
    assert ended == 0, words
    assert not any(secret in out + words for secret in (key, new, KEY, UPSTREAM_KEY, hash_api_key(key)))


def test_a_new_key_is_all_that_is_on_stdout(file: str) -> None:
    done = keys("create", file, "ci")
    assert re.fullmatch(r"sk-bud-[A-Za-z0-9_-]{48}\n", done.stdout)
    assert is_api_key(done.stdout.strip())
    assert "not shown again" in done.stderr
    assert done.stdout.strip() not in done.stderr
    shown = keys("show", file, "ci").output + keys("list", file).output + keys("list", file, "--json").output
    assert done.stdout.strip() not in shown
    assert hash_api_key(done.stdout.strip()) not in shown


def test_a_key_has_what_its_options_say(file: str) -> None:
    options = ["--owner", "ada@example.com", "--team", "ops", "--model", "claude-haiku-*", "--model", "fast"]
    options += [
        "--limit",
        "requests=60/1m",
        "--limit",
        "concurrent=3",
        "--expires",
        "2030-01-31",
        "--metadata",
        "a=b=c",
    ]
    created(file, "ci", *options, "--metadata", "a=b=c")
    shown = json.loads(keys("show", file, "ci", "--json").stdout)
    assert shown.pop("created").startswith("20")
    assert shown == {
        "name": "ci",
        "state": "enabled",
        "owner": "ada@example.com",
        "team": "ops",
        "models": ["claude-haiku-*", "fast"],
        "limits": ["60 requests per minute", "3 concurrent requests"],
        "metadata": {"a": "b=c"},
        "expires": "2030-01-31T00:00:00Z",
        "last_used": None,
        "previous_until": None,
    }


def test_the_list_has_the_keys_of_the_file_and_of_the_store(file: str) -> None:
    created(file, "b")
    created(file, "a", "--expires", "1ms")
    assert keys("disable", file, "b").exit_code == 0
    listed = json.loads(keys("list", file, "--json").stdout)
    assert [(key["name"], key["state"], key["in"]) for key in listed] == [
        ("me", "enabled", file),
        ("a", "expired", "key_store"),
        ("b", "disabled", "key_store"),
    ]
    head, *rows = keys("list", file).stdout.splitlines()
    assert head.split()[:2] == ["NAME", "STATE"]
    assert len(rows) == 3


def test_a_found_key_is_shown_by_itself_and_a_typo_without_a_lookup(file: str) -> None:
    key = created(file, "ci")
    assert json.loads(keys("show", file, "--key", "--json", stdin=f"{key}\n").stdout)["name"] == "ci"
    mistyped = keys("show", file, "--key", stdin=key.swapcase())
    assert (mistyped.exit_code, "checksum" in mistyped.stderr) == (2, True)
    other = run("keys", "new", "x").stderr.splitlines()[0]
    unknown = keys("show", file, "--key", stdin=other)
    assert (unknown.exit_code, unknown.stderr) == (1, "error: the key is not in the store\n")
    assert not any(secret in mistyped.output + unknown.output for secret in (key, key.swapcase(), other))


def test_a_key_is_read_from_a_terminal_without_being_shown(file: str) -> None:
    key = created(file, "ci")
    parent, child = pty.openpty()
    command = [*BUD_ASGI, "keys", "show", file, "--key"]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment(NO_COLOR="1")) as process:
        os.close(child)
        shown = os.read(parent, 1000)
        while b"Key: " not in shown:
            shown += os.read(parent, 1000)
        os.write(parent, key.encode() + b"\n")
        try:
            while part := os.read(parent, 1000):
                shown += part
        except OSError:  # the terminal is closed
            pass
        assert process.wait(30) == 0
    os.close(parent)
    assert b"name" in shown
    assert key.encode() not in shown


def test_the_store_is_found_by_environment_variables(file: str, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/other.db"
    assert keys("create", "ci", BUD_ASGI_KEY_STORE=url).exit_code == 0
    assert keys("create", "in-file", BUD_ASGI_CONFIG=file).exit_code == 0
    assert [key["name"] for key in json.loads(keys("list", "--json", BUD_ASGI_KEY_STORE=url).stdout)] == ["ci"]
    assert "in-file" in keys("list", BUD_ASGI_CONFIG=file).stdout


def test_an_update_changes_what_is_given_and_an_empty_value_removes_it(file: str) -> None:
    key = created(file, "ci", "--team", "ops", "--model", "a", "--limit", "requests=1", "--expires", "1d")
    done = keys("update", file, "ci", "--model", "b", "--model", "c-*", "--expires", "", "--json")
    assert done.exit_code == 0, done.output
    changed = json.loads(done.stdout)
    assert (changed["team"], changed["models"], changed["expires"]) == ("ops", ["b", "c-*"], None)
    assert changed["limits"] == ["1 request per minute"]
    done = keys("update", file, "ci", "--team", "", "--limit", "", "--metadata", "a=b", "--owner", "ada")
    assert done.exit_code == 0, done.output
    shown = json.loads(keys("show", file, "--key", "--json", stdin=key).stdout)
    assert {"team": None, "limits": [], "metadata": {"a": "b"}, "owner": "ada"}.items() <= shown.items()


def test_a_pepper_is_needed_again(tmp_path: Path) -> None:
    environ = {"BUD_ASGI_KEY_STORE": f"sqlite:{tmp_path}/keys.db", "BUD_ASGI_KEY_PEPPER": "the-CANARY-of-the-pepper"}
    key = keys("create", "ci", **environ).stdout.strip()
    assert keys("show", "--key", stdin=key, **environ).exit_code == 0
    assert keys("show", "--key", stdin=key, BUD_ASGI_KEY_STORE=environ["BUD_ASGI_KEY_STORE"]).exit_code == 1
    new = keys("new", "ci", "--pepper", "BUD_ASGI_KEY_PEPPER", **environ)
    assert 'hash = "hmac-sha256:' in new.stdout
    assert "CANARY" not in new.output


WRONG: dict[str, tuple[list[str], int, str]] = {
    "no name": (["create", "FILE"], 2, "Missing argument 'NAME'"),
    "nothing": (["create"], 2, "Missing argument 'NAME'"),
    "a name twice": (["create", "FILE", "ci"], 1, "the store has a key named 'ci' already"),
    "a key as the name": (["create", "FILE", "A-KEY"], 2, "NAME: expected a name, got an API key"),
    "an unknown name": (["rotate", "FILE", "xx"], 1, "the store has no key named 'xx'"),
    "a key of the file": (
        ["disable", "FILE", "me"],
        1,
        "the store has no key named 'me'; the one in FILE is changed by hand",
    ),
    "an unknown kind of limit": (["create", "FILE", "x", "--limit", "dollars=1"], 2, "--limit: expected KIND=AMOUNT"),
    "a limit of nothing": (["create", "FILE", "x", "--limit", "requests=0"], 2, "--limit: amount: expected a whole"),
    "an empty model": (["create", "FILE", "x", "--model", ""], 2, "models: expected a list of model names"),
    "a time that has passed": (["create", "FILE", "x", "--expires", "2026-01-31"], 2, "expires: has already passed"),
    "an update to a time that has passed": (
        ["update", "FILE", "ci", "--expires", "2026-01-31"],
        2,
        "has already passed",
    ),
    "an update of nothing": (["update", "FILE", "ci"], 2, "Nothing to change"),
    "an update of an unknown key": (["update", "FILE", "xx", "--team", "a"], 1, "the store has no key named 'xx'"),
    "an update to no model": (["update", "FILE", "ci", "--model", ""], 2, "models: expected a list of model names"),
    "a time that is none": (["create", "FILE", "x", "--expires", "soon"], 2, "--expires: expected a duration"),
    "an overlap that is none": (["rotate", "FILE", "ci", "--overlap", "long"], 2, "--overlap: expected a duration"),
    "metadata without a value": (["create", "FILE", "x", "--metadata", "a"], 2, "--metadata: expected NAME=VALUE"),
    "a file that is not there": (["list", "no-such.toml"], 2, "no-such.toml: cannot read the file"),
}


@pytest.mark.parametrize(("words", "status", "problem"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named(words: list[str], status: int, problem: str, file: str) -> None:
    key = created(file, "ci")
    done = keys(*(word.replace("FILE", file).replace("A-KEY", key) for word in words))
    assert done.exit_code == status, done.output
    assert problem.replace("FILE", file) in done.stderr.replace("\n", " ")
    assert key not in done.output


def test_a_store_that_fails_is_one_line_and_status_1(tmp_path: Path) -> None:
    missing = keys("list", BUD_ASGI_KEY_STORE=f"sqlite:{tmp_path}/missing.db")
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    assert "the key store failed: unable to open database file" in missing.stderr
    url = f"postgresql://user:CANARY@127.0.0.1:{free_port()}/db"
    refused = keys("list", BUD_ASGI_KEY_STORE=url)
    assert (refused.exit_code, refused.stderr.count("\n"), "CANARY" in refused.output) == (1, 1, False)
    assert "Connection refused" in refused.stderr


def test_a_file_without_a_store_names_the_command_for_it(tmp_path: Path) -> None:
    file = str(gateway_file(tmp_path))
    done = keys("create", file, "ci")
    assert done.exit_code == 2
    assert "key_store: missing; the keys of a file are made by `bud-asgi keys new NAME >> gateway.toml`" in done.stderr
    assert "me" in keys("list", file).stdout


def test_check_route_and_limits_know_the_key_store(tmp_path: Path) -> None:
    more = f'{STORE}\n[[routes]]\nmodel = "*"\nto = ["anthropic"]\nprincipals = ["ci"]\n'
    file = str(gateway_file(tmp_path, more=more))
    created(file, "ci", "--model", "claude-haiku-*")
    checked = run("check", file)
    assert "Keys are looked up in SqlKeyStore(" in checked.stdout
    assert "never used" not in checked.stderr
    assert run("route", file, "claude-haiku-5-5", "--principal", "ci").returncode == 0
    refused = run("route", file, "claude-opus-5-5", "--principal", "ci")
    assert (refused.returncode, "403" in refused.stderr) == (1, True)


def test_limits_and_times_are_read() -> None:
    assert parse_limit("requests=60/1m") == Limit("requests", 60, 60.0)
    assert parse_limit("tokens=1000000/1d") == Limit("tokens", 1_000_000, 86400.0)
    assert parse_limit("concurrent=2") == Limit("concurrent", 2)
    assert parse_expiry("90d", NOW) == NOW + timedelta(days=90)
    assert parse_expiry("2027-01-31", NOW) == datetime(2027, 1, 31, tzinfo=UTC)
    assert parse_expiry("2027-01-31T10:00:00+02:00", NOW) == datetime(2027, 1, 31, 8, tzinfo=UTC)
    for text in ("requests", "requests=", "requests=-1", "requests=1/2/3", "=1"):
        with pytest.raises(OptionError):
            parse_limit(text)
