"""`stand-in`: a fake provider on a port, also for pages in a browser."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from typing import Any

import anthropic
import httpx
from cli_process import BUD_ASGI, environment
from click.testing import CliRunner
from support.calls import MODEL

from bud_asgi.cli.commands import group

HELLO: Any = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
ORIGIN = {"origin": "http://localhost:5173"}


def test_it_answers_the_sdk_and_pages_of_any_origin() -> None:
    command = [*BUD_ASGI, "stand-in", "--port", "0", "--reply", "Good morning.", "--model", MODEL, "--delay", "0.001"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment()) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"ANTHROPIC_BASE_URL=(http://127.0.0.1:\d+)\n", process.stdout.readline())
            assert found is not None
            assert process.stdout.readline() == "ANTHROPIC_API_KEY=sk-ant-stand-in\n"
            with anthropic.Anthropic(base_url=found[1], api_key="sk-ant-stand-in", max_retries=0) as client:
                with client.messages.stream(**HELLO) as stream:
                    assert stream.get_final_text() == "Good morning."
                assert client.messages.count_tokens(model=MODEL, messages=HELLO["messages"]).input_tokens
                assert [model.id for model in client.models.list()] == [MODEL]
            preflight = {**ORIGIN, "access-control-request-method": "POST"}
            asked = httpx.options(f"{found[1]}/v1/messages", headers=preflight)
            assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")
            assert asked.headers["access-control-allow-headers"] == "*, authorization"
            refused = httpx.post(f"{found[1]}/v1/messages", headers=ORIGIN, json=HELLO)
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
        finally:
            process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = words.splitlines()
    assert lines[0].startswith("(a stand-in for Anthropic's API")
    assert lines[1:3] == [f"POST /v1/messages {MODEL} stream", f"POST /v1/messages/count_tokens {MODEL}"]


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        shown = CliRunner().invoke(group, ["stand-in", "--port", str(port)])
    assert (shown.exit_code, shown.stdout) == (3, "")
    assert shown.stderr == f"error: 127.0.0.1:{port}: address already in use; choose another with --port\n"
