"""`bud-asgi serve --metrics-port`: one process answers for all workers."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest
from cli_process import BUD_ASGI, UPSTREAM_KEY, Served, environment, gateway_file, served
from click.testing import CliRunner
from support.gateway import messages_app
from support.ports import free_port
from support.scrapes import counted, scrape, total
from support.waiting import wait_until

from bud_asgi.cli.commands import group
from bud_asgi.cli.serve.metrics import MetricsAddress, serve_metrics, serve_worker_metrics

REFUSED = "requests_total messages.create refused 401 none none"


def metrics_of(server: Served) -> str:
    """Where its metrics are, as it has written on stderr."""
    wait_until(lambda: any("metrics on" in line for line in server.words), "the address of the metrics")
    return re.findall(r"metrics on (http://127\.0\.0\.1:\d+/metrics)", "".join(server.words))[0]


def post(server: Served, times: int) -> None:
    for _ in range(times):  # on new connections, so that every worker gets some
        assert httpx.post(f"{server.url}/v1/messages").status_code == 401


def test_one_process_has_its_metrics_on_a_port_of_their_own(tmp_path: Path) -> None:
    command = [*BUD_ASGI, "serve", str(gateway_file(tmp_path)), "--port", "0", "--metrics-port", "0"]
    with served(command, environment()) as server:
        url = metrics_of(server)
        post(server, 2)
        assert counted({}, scrape(url, openmetrics=True))[REFUSED] == 2
        assert httpx.get(f"{server.url}/metrics").status_code == 404
        status, _, words = server.stop()
    assert status == 0, words


def test_two_workers_are_added_up_and_what_one_has_counted_stays(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    options = ["--port", str(free_port()), "--workers", "2", "--metrics-port", "0"]
    command = [*BUD_ASGI, "serve", str(gateway_file(tmp_path)), *options]
    with served(command, environment(TMPDIR=str(tmp_path / "temporary"))) as server:
        url = metrics_of(server)
        wait_until(lambda: total(scrape(url), "bud_body_budget_bytes") >= 2 * (200 << 20), "both workers")
        post(server, 8)
        wait_until(lambda: counted({}, scrape(url)).get(REFUSED) == 8, "the requests of both workers")
        assert total(scrape(url), "bud_ready") == 1
        workers = re.findall(r"Started server process \[(\d+)\]", "".join(server.words))
        os.kill(int(workers[0]), signal.SIGKILL)
        assert counted({}, scrape(url))[REFUSED] == 8
        status, _, words = server.stop()
    assert status == 0, words
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_the_extra_nothing_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setenv("ANTHROPIC_API_KEY", UPSTREAM_KEY)
    shown = CliRunner().invoke(group, ["serve", str(gateway_file(tmp_path)), "--port", "0", "--metrics-port", "0"])
    assert (shown.exit_code, shown.stdout) == (2, "")
    problem = "--metrics-port: needs prometheus_client, which is not installed: "
    assert shown.stderr == f"error: {problem}pip install '.[prometheus]' in a checkout of bud_asgi\n"


def test_a_port_that_is_taken_is_an_error_before_anything_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = MetricsAddress("127.0.0.1", taken.getsockname()[1])
        for serving in (serve_metrics(messages_app("http://127.0.0.1:1"), address), serve_worker_metrics(address)):
            with pytest.raises(SystemExit, match="3"), serving:
                raise AssertionError("it serves")
            assert re.search(r"^error: --metrics-port 127.0.0.1:\d+: address .*in use$", capsys.readouterr().err)


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=new", "text/plain;version=1.x", "\xff;version="]
)
def test_an_accept_that_cannot_be_read_gets_text(accept: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serve_metrics(messages_app("http://127.0.0.1:1"), MetricsAddress("127.0.0.1", 0)):
        (url,) = re.findall(r"http://\S+", caplog.text)
        reply = httpx.get(url, headers=[(b"accept", accept.encode("latin-1"))])
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
