"""`bud-asgi serve`: startup, requests by the official SDK, logs, and shutdown."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import sys
import threading
from pathlib import Path

import anthropic
import httpx
import msgspec
import pytest
from cli_process import (
    BUD_ASGI,
    KEY,
    UPSTREAM_KEY,
    environment,
    gateway_file,
    run,
    served,
)
from support.calls import MODEL
from support.ports import free_port
from support.sockets import connect
from support.waiting import answers, wait_until

from bud_asgi import hash_api_key
from bud_asgi.cli.serve.logs import formatters
from bud_asgi.cli.serve.options import ServeOptions
from bud_asgi.cli.serve.run import _shared
from bud_asgi.telemetry import JsonFormatter, TextFormatter
from bud_asgi.testing import StandIn, stall, text

LIMITS = "\n[[limits]]\nrequests = 60\n"
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
HELLO = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}


def ask(url: str) -> str:
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        message = client.messages.create(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "CANARY of a client"}]
        )
        return message.model


def test_it_serves_the_official_sdk_and_ends_with_status_0(tmp_path: Path) -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        file = gateway_file(tmp_path, upstream.base_url, LIMITS)
        with served([*BUD_ASGI, "serve", str(file), "--port", "0"], environment()) as server:
            assert server.url.startswith("http://127.0.0.1:")
            assert ask(server.url) == MODEL
            assert httpx.get(f"{server.url}/healthz").status_code == 200
            assert httpx.get(f"{server.url}/readyz").status_code == 200
            assert httpx.post(f"{server.url}/v1/messages", headers={"x-api-key": "CANARY"}).status_code == 401
            status, out, words = server.stop()
    assert status == 0, words
    first, second = map(json.loads, out.splitlines())  # a line for each request, but for health
    assert (first["principal"], first["model"], first["target"], first["status"]) == ("me", MODEL, "anthropic", 200)
    assert (second["status"], second["outcome"]) == (401, "refused")
    assert (first["level"], first["client_address"], first["user_agent"][:9]) == ("info", "127.0.0.1", "Anthropic")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert "CANARY" not in out + words
    assert "\x1b" not in out + words  # a pipe is no terminal
    assert re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO:     .+\n)+", words), words


def test_without_a_file_the_environment_is_enough() -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        environ = environment(ANTHROPIC_BASE_URL=upstream.base_url, BUD_ASGI_KEYS=f"me={hash_api_key(KEY)}")
        with served([*BUD_ASGI, "serve", "--port", "0"], environ) as server:
            assert ask(server.url) == MODEL
            assert server.stop()[0] == 0


def test_several_workers_read_the_same_file_and_end_as_python_does(tmp_path: Path) -> None:
    """At the end of Python an SDK of OpenTelemetry exports what it has."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, pathlib\natexit.register(pathlib.Path(__file__).with_name(f'{os.getpid()}.ended').touch)\n"
    )
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        file = gateway_file(tmp_path, upstream.base_url, LIMITS)
        port = str(free_port())
        command = [*BUD_ASGI, "serve", file.name, "--port", port, "--workers", "2", "--per-worker-limits"]
        with served(command, environment(PYTHONPATH=str(tmp_path)), cwd=tmp_path) as server:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), "the server answers")
            assert ask(server.url) == MODEL
            status, out, words = server.stop()
    assert (status, json.loads(out)["principal"]) == (0, "me"), words
    workers = re.findall(r"Started server process \[(\d+)\]", words)
    assert [pid for pid in workers if not (tmp_path / f"{pid}.ended").exists()] == []


def _wait_until_it_drains(url: str) -> None:
    wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503, "it drains")


def test_uvicorn_serves_the_factory(tmp_path: Path) -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        file = gateway_file(tmp_path, upstream.base_url)
        command = [sys.executable, "-m", "uvicorn", "--factory", "bud_asgi.config:from_env", "--port", "0"]
        with served(command, environment(BUD_ASGI_CONFIG=str(file))) as server:
            assert ask(server.url) == MODEL
            server.stop()


def test_the_file_can_turn_the_access_log_off(tmp_path: Path) -> None:
    file = gateway_file(tmp_path)
    file.write_text("access_log = false\n" + file.read_text())
    with served([*BUD_ASGI, "serve", str(file), "--port", "0", "--log-level", "info"], environment()) as server:
        assert httpx.post(f"{server.url}/v1/messages").status_code == 401
        assert server.stop()[:2] == (0, "")


def test_a_pipe_that_nobody_reads_does_not_hold_the_server_up(tmp_path: Path) -> None:
    request = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    with served([*BUD_ASGI, "serve", str(gateway_file(tmp_path)), "--port", "0"], environment()) as server:
        for _ in range(12):
            with connect(server.url) as peer:
                peer.sendall(request * 50)
                received = b""
                while received.count(b'"request_id"') < 50:
                    received += peer.recv(1 << 20)
        assert answers(f"{server.url}/healthz")
        status, out, words = server.stop()
    assert status == 0, words
    assert len(out.splitlines()) == 600
    assert {json.loads(line)["status"] for line in out.splitlines()} == {401}


@pytest.mark.parametrize(
    ("wanted", "terminal", "environ", "formatter"),
    [
        ("auto", False, {}, JsonFormatter),
        ("auto", True, {}, TextFormatter),
        ("auto", True, {"NO_COLOR": "1"}, TextFormatter),
        ("json", True, {}, JsonFormatter),
        ("text", False, {}, TextFormatter),
    ],
)
def test_requests_are_text_on_a_terminal_and_json_elsewhere(
    wanted: str,
    terminal: bool,
    environ: dict[str, str],
    formatter: type[logging.Formatter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    options = dict(formatters(wanted)["requests"])
    assert options.pop("()") == f"bud_asgi.telemetry.{formatter.__name__}"
    assert options == ({"colors": terminal and not environ} if formatter is TextFormatter else {})


def test_forwarded_headers_need_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServeOptions(
        config=None,
        host="127.0.0.1",
        port=0,
        workers=1,
        per_worker_limits=False,
        log_level="info",
        forwarded_allow_ips=None,
        drain_timeout=30,
        keep_alive=75,
        limit_connections=None,
        limit_concurrency=None,
    )
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    assert not _shared(options)["proxy_headers"]
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1")
    assert (_shared(options)["proxy_headers"], _shared(options)["forwarded_allow_ips"]) == (True, "10.0.0.1")
    given = _shared(msgspec.structs.replace(options, forwarded_allow_ips="*"))
    assert (given["proxy_headers"], given["forwarded_allow_ips"]) == (True, "*")


def test_a_running_stream_ends_within_the_drain_timeout_with_an_error_event(tmp_path: Path) -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        upstream.always(stall(20, after_bytes=900))
        file = gateway_file(tmp_path, upstream.base_url)
        command = [*BUD_ASGI, "serve", str(file), "--port", "0", "--drain-timeout", "1"]
        with served(command, environment()) as server:
            body = {**HELLO, "stream": True}
            with httpx.stream("POST", f"{server.url}/v1/messages", headers=HEADERS, json=body, timeout=20) as reply:
                chunks = reply.iter_bytes()
                received = next(chunks)
                server.process.send_signal(signal.SIGTERM)
                _wait_until_it_drains(server.url)
                refused = httpx.post(f"{server.url}/v1/messages", headers=HEADERS, json=HELLO)
                assert (refused.status_code, refused.headers["retry-after"]) == (529, "1")
                assert httpx.get(f"{server.url}/healthz").status_code == 200
                received += b"".join(chunks)
            assert b"event: error" in received
            status, out, words = server.ended()
    assert status == 0
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["refused", "cancelled"]
    assert "aborting 1 requests that were still in flight after 1 s" in words
    assert "Traceback" not in words


def test_a_second_signal_ends_the_drain(tmp_path: Path) -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        upstream.always(stall(20, after_bytes=900))
        file = gateway_file(tmp_path, upstream.base_url)
        with (
            served([*BUD_ASGI, "serve", str(file), "--port", "0", "--drain-timeout", "60"], environment()) as server,
            httpx.stream(
                "POST", f"{server.url}/v1/messages", headers=HEADERS, json={**HELLO, "stream": True}, timeout=20
            ) as reply,
        ):
            chunks = reply.iter_bytes()
            next(chunks)
            server.process.send_signal(signal.SIGTERM)
            _wait_until_it_drains(server.url)
            server.process.send_signal(signal.SIGTERM)
            assert b"event: error" in b"".join(chunks)
            assert server.ended()[0] == 0


def test_a_stream_that_ends_within_the_drain_timeout_is_complete(tmp_path: Path) -> None:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        upstream.always(text("one two three four five six", delay=0.1))
        file = gateway_file(tmp_path, upstream.base_url)
        with (
            served([*BUD_ASGI, "serve", str(file), "--port", "0"], environment()) as server,
            anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client,
            client.messages.stream(
                model=MODEL, max_tokens=99, messages=[{"role": "user", "content": "Count."}]
            ) as stream,
        ):
            threading.Timer(0.15, server.process.send_signal, [signal.SIGTERM]).start()
            assert stream.get_final_text() == "one two three four five six"
            assert server.ended()[0] == 0


def test_every_problem_of_the_file_is_reported_and_no_port_opened(tmp_path: Path) -> None:
    port = free_port()
    file = gateway_file(tmp_path, more="models = []\n[[routes]]\nmodel = 1\nto = [2]\n")
    shown = run("serve", str(file), "--port", str(port))
    assert (shown.returncode, shown.stdout) == (2, "")
    assert [line.split(": ")[:3] for line in shown.stderr.splitlines()] == [
        ["error", f"{file}:9", "keys[0].models"],
        ["error", f"{file}:11", "routes[0].model"],
        ["error", f"{file}:12", "routes[0].to[0]"],
    ]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_without_file_and_environment_it_reports_what_is_missing() -> None:
    shown = run("serve", ANTHROPIC_API_KEY="")
    assert (shown.returncode, len(shown.stderr.splitlines())) == (2, 2)
    assert shown.stderr.startswith("error: environment: ANTHROPIC_API_KEY: not set; set it, or set BUD_ASGI_CONFIG")


def test_it_refuses_to_be_its_own_upstream() -> None:
    shown = run("serve", ANTHROPIC_BASE_URL="http://localhost:8000", BUD_ASGI_ALLOW_ANONYMOUS="1")
    assert shown.returncode == 2
    assert "http://localhost:8000 is the address of this server itself" in shown.stderr


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('kind = "bedrock"\nregion = "us-east-1"\nendpoint = "http://127.0.0.1:8000"', "endpoint"),
        ('kind = "vertex"\nproject = "p"\nbase_url = "http://127.0.0.1:8000"', "base_url"),
    ],
)
def test_it_refuses_to_be_its_own_upstream_as_a_cloud(table: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(f"allow_anonymous = true\n[providers.up]\n{table}\n")
    shown = run("serve", "gateway.toml", cwd=tmp_path)
    assert shown.returncode == 2
    words = f"providers.up.{key}: http://127.0.0.1:8000 is the address of this server itself"
    assert shown.stderr == f"error: gateway.toml: {words}\n"


def test_an_idle_server_is_small(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bud_asgi", "serve", str(gateway_file(tmp_path)), "--port", "0"]
    with served(command, environment()) as server:
        lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    (resident,) = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    assert resident < 60_000  # KB
