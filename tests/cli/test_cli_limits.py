"""Limits at the command line: shown by `check`, divided by `serve`, read from the store by `limits show`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from cli_process import BUD_ASGI, KEY, UPSTREAM_KEY, environment, gateway_file, run, served
from click.testing import CliRunner, Result
from support.calls import MODEL
from support.ports import free_port
from support.waiting import answers, wait_until

from bud_asgi import Limit, MemoryStore, Secret, hash_api_key
from bud_asgi.cli.commands import group
from bud_asgi.limits import Charge, LimitStatus, StoreUnavailable
from bud_asgi.testing import StandIn

OTHER = f"""limits = [{{ requests = 10 }}, {{ tokens = 100_000, window = "1h", models = ["claude-opus-*"] }}]
team = "ours"

[[keys]]
name = "other"
hash = "{hash_api_key("sk-bud-other")}"
"""
LIMITS = """
[[limits]]
requests = 60

[[limits]]
input_tokens = 500_000
per = "team"
teams = ["o*"]
wait = "2s"
cache_reads = true

[[limits]]
concurrent = 8
per = "all"
mode = "observe"

[[limits]]
output_tokens = 7_000
window = 90
per = "model"
principals = ["me", "ci-*"]
"""
STORE = '\n[store]\nurl = "env:STORE_URL"\n'
STORE_URL = "redis://me:CANARY@store.internal:6379/0"

CHECKED = """
LIMIT                               FOR
60 requests per minute              each principal
500,000 input tokens per minute     each team; teams o*; waits up to 2 s; with cache reads
8 concurrent requests               all; observed
7,000 output tokens in 90 seconds   each model; principals me, ci-*
10 requests per minute              key me
100,000 tokens per hour             key me; models claude-opus-*
"""


def test_check_lists_all_limits_and_the_store_without_its_password(tmp_path: Path) -> None:
    shown = run("check", str(gateway_file(tmp_path, more=OTHER + LIMITS + STORE)), STORE_URL=STORE_URL)
    assert shown.returncode == 0, shown.stderr
    squeezed = re.sub("  +", "  ", shown.stdout)
    assert re.sub("  +", "  ", CHECKED) in squeezed
    assert "\nLimits are counted by RedisStore('redis://store.internal:6379/0').\n" in shown.stdout
    assert "CANARY" not in shown.stdout + shown.stderr


def test_several_workers_need_a_store_or_their_share_of_the_limits(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more="limits = [{ requests = 10 }]\n")
    shown = run("serve", str(file), "--workers", "3")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        "error: --workers: each worker would count the limits on its own: add a [store] to the file, which all workers"
        " share, or divide the limits among them with --per-worker-limits\n"
    )


def test_amounts_below_the_number_of_workers_are_refused(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more="limits = [{ requests = 2 }]\n[[limits]]\nconcurrent = 1\n")
    shown = run("serve", str(file), "--workers", "3", "--per-worker-limits")
    assert (shown.returncode, shown.stdout) == (2, "")
    expected = "expected at least 3, fewer workers, or a [store], which all workers share"
    assert shown.stderr.splitlines() == [
        f"error: {file}: limits[0].concurrent: 1 cannot be divided among 3 workers; {expected}",
        f"error: {file}: keys[0].limits[0].requests: 2 cannot be divided among 3 workers; {expected}",
    ]


def test_limits_in_a_store_are_not_divided(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more='limits = [{ requests = 9 }]\n[store]\nurl = "redis://store"\n')
    shown = run("serve", str(file), "--workers", "3", "--per-worker-limits")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"error: {file}: store: counts the limits of all workers together; remove --per-worker-limits, which would"
        " divide them\n"
    )


def test_each_worker_applies_its_share_of_the_limits(tmp_path: Path) -> None:
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    hello = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        file = gateway_file(tmp_path, upstream.base_url, "limits = [{ requests = 11 }]\n")
        port = str(free_port())
        command = [*BUD_ASGI, "serve", str(file), "--port", port, "--workers", "2", "--per-worker-limits"]
        with served(command, environment()) as server:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{url}/healthz"), "the server answers")
            reply = httpx.post(f"{url}/v1/messages", headers=headers, json=hello)
            assert (reply.status_code, reply.headers["anthropic-ratelimit-requests-limit"]) == (200, "5")
            assert server.stop()[0] == 0


class Store(MemoryStore):
    """Takes the place of the store of the file."""

    reason = ""
    failures = 1 << 30
    closed = 0
    lease = 60.0

    async def statuses(self, buckets: Sequence[Charge]) -> Sequence[LimitStatus]:
        if self.reason and self.failures:
            self.failures -= 1
            raise StoreUnavailable(self.reason)
        return await super().statuses(buckets)

    async def renew(self, reservations: Sequence[object]) -> None:
        raise AssertionError(reservations)

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(clock=lambda: 1000.0)

    def make(url: Secret) -> Store:
        assert url.reveal() == STORE_URL
        return made

    monkeypatch.setattr("bud_asgi.config.limits.RedisStore", make)
    monkeypatch.setattr("bud_asgi.cli.limits.PAUSES", (0.0, 0.0))
    return made


def show(*words: str, config: Path | None = None) -> Result:
    environ = {"ANTHROPIC_API_KEY": UPSTREAM_KEY, "STORE_URL": STORE_URL, "BUD_ASGI_CONFIG": str(config or "")}
    return CliRunner().invoke(group, ["limits", "show", *words], env=environ)


def table_of(shown: Result) -> list[list[str]]:
    assert shown.exit_code == 0, shown.stderr
    return [re.split("  +", line) for line in shown.stdout.splitlines()]


def test_the_standing_of_each_key_is_shown(store: Store, tmp_path: Path) -> None:
    asyncio.run(store.reserve([Charge(Limit("requests", 10), "messages:me", 4)]))
    file = gateway_file(tmp_path, more=OTHER + LIMITS + STORE)
    head, *rows = table_of(show(str(file)))
    assert head == ["KEY", "LIMIT", "FOR", "USED", "RESERVED", "REMAINING", "FULL AGAIN AT"]
    team = "each team; teams o*; waits up to 2 s; with cache reads"
    assert [row[:6] for row in rows] == [
        ["me", "10 requests per minute", "key me", "0", "4", "6"],
        ["me", "500,000 input tokens per minute", team, "0", "0", "500,000"],
        ["me", "8 concurrent requests", "all; observed", "0", "0", "8"],
        ["other", "60 requests per minute", "each principal", "0", "0", "60"],
        ["other", "8 concurrent requests", "all; observed", "0", "0", "8"],
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", rows[0][6])
    assert [row[6] for row in rows[1:]] == ["-"] * 4
    assert store.closed == 1


def test_one_key_is_shown_with_the_limits_of_a_model(store: Store, tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=OTHER + LIMITS + STORE)
    _, *rows = table_of(show(str(file), "me", "--model", "claude-opus-5-5"))
    assert [row[1] for row in rows] == [
        "10 requests per minute",
        "100,000 tokens per hour",
        "500,000 input tokens per minute",
        "8 concurrent requests",
        "7,000 output tokens in 90 seconds",
    ]


def test_the_standing_is_json_on_request(store: Store, tmp_path: Path) -> None:
    asyncio.run(store.reserve([Charge(Limit("requests", 60), "messages:other", 1)]))
    shown = show(str(gateway_file(tmp_path, more=OTHER + LIMITS + STORE)), "other", "--json")
    first, second = json.loads(shown.stdout)
    assert isinstance(first.pop("full_at"), float)
    assert first == {
        "key": "other",
        "limit": "60 requests per minute",
        "kind": "requests",
        "amount": 60,
        "window": 60.0,
        "for": "each principal",
        "used": 0,
        "reserved": 1,
        "remaining": 59,
    }
    assert (second["kind"], second["window"], second["full_at"]) == ("concurrent", None, None)


def test_without_keys_the_anonymous_caller_is_shown(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    provider = '[providers.p]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n'
    file.write_text(f"allow_anonymous = true\n{provider}[[limits]]\nrequests = 5\n{STORE}")
    _, row = table_of(show(str(file)))
    assert row == ["anonymous", "5 requests per minute", "each principal", "0", "0", "5", "-"]


def test_a_name_is_enough_where_the_environment_names_the_file(store: Store, tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=OTHER + LIMITS + STORE)
    assert {row[0] for row in table_of(show("other", config=file))[1:]} == {"other"}
    assert {row[0] for row in table_of(show(config=file))[1:]} == {"me", "other"}
    assert {row[0] for row in table_of(show(str(file), config=tmp_path / "nope"))[1:]} == {"me", "other"}


def test_an_unknown_key_is_an_error(store: Store, tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=OTHER + LIMITS + STORE)
    shown = show(str(file), "othr")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert f'no key in {file} has the name "othr" (did you mean "other"?)' in re.sub(r"\s*\n\s*", " ", shown.stderr)


def test_limits_in_memory_cannot_be_shown(tmp_path: Path) -> None:
    file = gateway_file(tmp_path, more=LIMITS)
    shown = show(str(file))
    assert (shown.exit_code, shown.stdout) == (2, "")
    message = "missing; without it limits are counted in the memory of the server, which this command cannot read"
    assert shown.stderr == f"error: {file}: store: {message}\n"


def test_a_store_that_is_away_is_status_1_and_one_line(store: Store, tmp_path: Path) -> None:
    store.reason = "no reply within 50 ms"
    file = gateway_file(tmp_path, more=OTHER + LIMITS + STORE)
    shown = show(str(file))
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == f"error: {file}: store: {store!r} cannot be read: no reply within 50 ms\n"
    assert store.closed == 1


def test_a_store_that_connects_slowly_is_waited_for(store: Store, tmp_path: Path) -> None:
    store.reason, store.failures = "not connected", 2
    assert len(table_of(show(str(gateway_file(tmp_path, more=OTHER + LIMITS + STORE))))) == 6
