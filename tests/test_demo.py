"""The demo is run as a user runs it: as a command, against the stand-ins, with curl and the official SDK.

Where only an option or the environment differs, the same command runs in this process: each process imports the SDK.
"""

from __future__ import annotations

import json
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from bud_asgi import new_api_key
from bud_asgi.cli.commands import demo as command
from bud_asgi.testing import StandIn

DEMO = [sys.executable, "-W", "error", "-m", "bud_asgi.cli.demo"]
WITHOUT = ["botocore", "fastapi", "joserfc", "psycopg", "redis", "trustme", "uvloop", "websockets", "yaml"]
"""Modules that other extras have; the extra `demo` does not."""

ALONE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({WITHOUT}))
runpy.run_module({DEMO[-1]!r}, None, "__main__")
"""
KEY = new_api_key()
DEMO_ALONE = [*DEMO[:-2], "-c", ALONE, "--keep", "--key", KEY]
ACCOUNT = re.compile(
    r"  request +req_[0-9a-f]{24} by demo\n"
    r"  route +(?P<route>.+)\n"
    r"  tokens +\d+ in, \d+ out\n"
    r"  time to first event +[\d.]+ ms\n"
    r"    added by the gateway +[\d.]+ ms\n"
)


def run_here(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(command, arguments, env=environment, catch_exceptions=False)


def processor_time() -> float:
    """Seconds of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def shown() -> Generator[str]:
    """What it shows until it waits for an interrupt. It runs on, and ends well."""
    began = processor_time()
    with subprocess.Popen(DEMO_ALONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        try:
            text = ""
            while not text.endswith("Running until Ctrl-C\n"):
                line = demo.stdout.readline()
                assert line, demo.stderr.read()
                text += line
            yield text
            demo.send_signal(signal.SIGINT)
            assert (demo.wait(timeout=30), demo.stderr.read()) == (0, "")
        finally:
            demo.kill()
    assert processor_time() - began < 10


def test_it_shows_the_pages_request_and_the_sdk_both_ways_with_their_accounts(shown: str) -> None:
    words = " ".join(shown.split())
    assert '"text": "Hello! How can I help you today?"' in words
    assert "\n  Bonjour.\n" in shown
    assert "one by one, as they were written." in words
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.startswith("The Messages API, mounted in an ASGI app. You will see:\n")
    assert float(re.findall(r"arrived over +([\d.]+) s", shown)[0]) > 0.5
    assert [match["route"] for match in ACCOUNT.finditer(shown)] == [
        "claude-haiku-5-5 -> anthropic, as claude-haiku-5-5"
    ] * 3
    assert "\x1b" not in shown  # a pipe is not a terminal
    for secret in ("sk-ant", "ASIA", "ya29", "PRIVATE KEY"):
        assert secret not in shown


AT = {
    "anthropic": "POST /v1/messages",
    "bedrock": "POST /model/us.anthropic.claude-haiku-5-5/invoke-with-response-stream",
    "vertex": (
        "POST /v1/projects/bud-stand-in/locations/global/publishers/anthropic/models/claude-haiku-5-5:streamRawPredict"
    ),
}
EVENTS = [
    ("content_block_start", "text"),
    ("content_block_delta", "'161'"),
    ("content_block_delta", "' m'"),
    ("content_block_stop", "-"),
    ("message_delta", "end_turn"),
    ("message_stop", "-"),
]


def test_it_shows_one_conversation_at_three_providers_event_by_event_with_their_accounts(shown: str) -> None:
    part = shown.partition("\n4. The same")[2].partition("\n\nSend")[0]
    said, went_up, came_down, known = re.split(r"\n\n(?:Upstream|Events|What) .*\n", part)
    for answer in ("In Ulm.", "161 m"):
        assert re.findall(rf"^  (\w+) +{answer}$", said, re.MULTILINE) == list(AT)
    assert dict(re.findall(r"^  (\w+) +(POST .+)$", re.sub(r"\n +/", "/", went_up), re.MULTILINE)) == AT
    providers, start, *events = [re.split(r"  +", line.strip()) for line in came_down.splitlines()]
    assert providers == list(AT)
    assert [*re.findall(r"msg_(?:[a-z]+_|01)|message_start", " ".join(start))] == [
        "message_start",
        "msg_01",
        "msg_bdrk_",
        "msg_vrtx_",
    ]
    assert events == [[name.strip(), *[content] * 3] for name, content in EVENTS]
    columns = {line[:24].strip(): re.split(r"  +", line[24:].strip()) for line in known.splitlines()}
    assert columns.pop("") == list(AT)
    assert columns.pop("fields dropped") == ["nothing", "service_tier", "service_tier"]
    assert len(set(columns.pop("tokens"))) == 1
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(
        ("time to first event", "added by the gateway", "sent by the upstream", "received by the client"), 3
    )


def test_without_curl_the_same_request_goes_by_the_standard_library(tmp_path: Path) -> None:
    shown = run_here(PATH=str(tmp_path))
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert '"text": "Hello! How can I help you today?"' in " ".join(shown.stdout.split())
    rest = shown.stdout.partition("\nThree things to try next\n")[2]
    assert re.findall(r"^  (\d)\. ", rest, re.MULTILINE) == [*"123"]


def test_it_stays_and_its_curl_line_works(shown: str) -> None:
    (command,) = re.findall(r"(?s)own\n(curl .+?\}')\n", shown)
    words = shlex.split(command.replace("\\\n", ""))
    headers = dict(word.split(": ", 1) for flag, word in pairwise(words) if flag == "-H")
    assert headers["x-api-key"] == KEY
    reply = httpx.post(words[1], headers=headers, content=words[-1], timeout=30)
    assert reply.status_code == 200
    for name in AT:
        body = {**json.loads(words[-1]), "model": f"claude-at-{name}"}
        assert httpx.post(words[1], headers=headers, json=body, timeout=30).status_code == 200


def test_real_money_needs_a_key() -> None:
    shown = run_here("--real", ANTHROPIC_API_KEY="")
    assert shown.exit_code == 2
    assert "--real requires ANTHROPIC_API_KEY" in shown.stderr


def test_with_a_key_the_real_provider_is_used() -> None:
    with StandIn(api_key="sk-ant-real").in_thread() as service:
        shown = run_here("--real", ANTHROPIC_API_KEY="sk-ant-real", ANTHROPIC_BASE_URL=service.base_url)
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert len(service.requests) == 3


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = [
        "botocore",
        "aiobotocore",
        "google.auth",
        "cryptography",
        "aiohttp",
        "redis",
        "fastapi",
        "uvicorn",
        "anthropic",
        "httpx",
        "trustme",
        "opentelemetry",
        "bud_asgi.testing",
    ]
    code = f"import sys, bud_asgi; print([name for name in {heavy!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
