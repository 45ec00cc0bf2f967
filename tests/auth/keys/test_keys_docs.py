"""docs/keys.md is true: its commands and programs run, and its numbers are those of the code."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.authentication import AuthenticationError

from bud_asgi.auth import KEY_STORE_CHECKS, ApiKeys, EditableKeyStore, KeyAdmin, KeyTiming, is_api_key
from bud_asgi.auth.chain import Pending
from bud_asgi.auth.keys.known import MAX_ACCEPTED, MAX_REFUSED
from bud_asgi.auth.keys.schema import MIGRATIONS
from bud_asgi.cli.key_commands import keys as commands

PAGE = (Path(__file__).parents[3] / "docs" / "keys.md").read_text(encoding="utf-8")
IN_CODE, OUR_STORE, OUR_TESTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def names_of(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(program, "docs/keys.md", "exec"), names)
    return names


async def accepts(keys: ApiKeys, key: str) -> bool:
    try:
        found = keys.check(key.encode())
        return (await found.wait() if isinstance(found, Pending) else found) is not None
    except AuthenticationError:
        return False


def test_the_commands_run(tmp_path: Path) -> None:
    (file,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (shell,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "gateway.toml").write_text(file)
    written: list[str] = []
    for line in shell.replace("'", "").splitlines():
        command = [sys.executable, "-m", "bud_asgi.cli", *line.split()[1:]]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=110, check=False)
        assert done.returncode == 0, (line, done.stderr)
        written.append(done.stdout.strip())
    created, listed, rotated, updated, *others = written
    assert is_api_key(created)
    assert is_api_key(rotated)
    assert "60 requests per minute" in listed
    assert "600 requests per minute" in updated
    assert others == ["", "", ""]


async def test_the_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-upstream")
    names = names_of(IN_CODE)
    keys: ApiKeys = names["keys"]
    key = await names["onboard"]("web")
    assert await accepts(keys, key)
    new = await names["renew"]("web")
    assert [await accepts(keys, one) for one in (key, new)] == [True, True]
    await names["offboard"]("web")
    assert [await accepts(keys, one) for one in (key, new)] == [False, False]
    await keys.aclose()


async def test_a_store_of_your_own_needs_one_method() -> None:
    keys: ApiKeys = names_of(OUR_STORE)["auth"]
    assert not await accepts(keys, "sk-bud-unknown")
    assert await keys.status() == "ready"


async def test_the_tests_for_a_store_of_your_own_run() -> None:
    for check in KEY_STORE_CHECKS:
        await names_of(OUR_TESTS)["test_our_store"](check)


def test_every_command_and_method_is_documented() -> None:
    for command in commands.commands:
        assert re.search(rf"`(keys )?{command}\b", PAGE), command
    for name in [name for name in vars(KeyAdmin) if not name.startswith("_")]:
        assert f"`{name}`" in PAGE, name
    assert isinstance(names_of(OUR_TESTS)["MemoryKeyStore"](), EditableKeyStore)


def test_the_numbers_are_those_of_the_code() -> None:
    timing, limits = KeyTiming(), f"Up to {MAX_ACCEPTED:,} accepted and {MAX_REFUSED:,} refused"
    assert limits in PAGE.replace("\n", " ").replace("  ", " ")
    assert (timing.fresh, timing.stale, timing.timeout, timing.retry, timing.note_every) == (10, 3600, 2, 1, 60)


def test_the_tables_are_those_that_are_named() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE bud_asgi_schema (version INTEGER)")
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        found: list[tuple[str]] = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert all(f"`{name}`" in PAGE for (name,) in found)
