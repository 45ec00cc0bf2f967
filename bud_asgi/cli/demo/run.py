"""A demonstration: the gateway mounted in a Starlette app, with upstreams behind it and real clients in front."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from contextlib import nullcontext

import anthropic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as HostRoute

from bud_asgi import ApiKeys, Limit, MessagesApp, Route, hash_api_key, new_api_key
from bud_asgi.cli.demo.accounts import Accounts, Printer, show_account
from bud_asgi.cli.demo.providers import MODEL, routes_to, show_providers
from bud_asgi.cli.demo.upstreams import Upstream, real_provider, stand_ins
from bud_asgi.cli.settings import EXIT_WRONG
from bud_asgi.cli.terminal import echo_problem
from bud_asgi.providers import Provider
from bud_asgi.testing import text
from bud_asgi.testing.server.serving import serving

CURL_BODY = f"""{{"model": "{MODEL}", "max_tokens": 1024,
       "messages": [{{"role": "user", "content": "Hello, Claude!"}}]}}"""
INTRODUCTION = """\
The Messages API, mounted in an ASGI app. You will see:

  1. a request with curl, and what the gateway recorded about it
  2. the official SDK: one reply at once
  3. the official SDK: a stream
  4. the same conversation with Anthropic, Amazon Bedrock and Google Vertex AI

  curl, SDK  ->  Starlette app with bud_asgi at /llm  ->  Anthropic
                                                     ->  Amazon Bedrock
                                                     ->  Google Vertex AI
"""
STAND_INS = "The three services are stand-ins on this machine: no key, no network, no cost."
NEXT = """\
  1. Keep it running, and send requests of your own:
       make demo ARGS=--keep
  2. Mount it in your app, as README.md explains:
       MessagesApp(auth=..., providers=[...]).install(app, "/llm")
  3. Serve it alone, with a configuration file, as docs/alone.md explains:
       bud-asgi serve gateway.toml"""
GREETING = "Hello! How can I help you today?"
STORY = (
    "Once upon a time a client sent a request. The gateway checked its key, found its route, counted it, "
    "and sent it on to a model; and the words of the answer came back one by one, as they were written."
)


def run(*, keep: bool, real: bool, port: int, key: str | None) -> int:
    """Run the demo. Returns the exit status."""
    if real and not os.environ.get("ANTHROPIC_API_KEY"):
        echo_problem("error", "--real requires ANTHROPIC_API_KEY; without --real the demo needs no key")
        return EXIT_WRONG
    printer, accounts = Printer(), Accounts()
    key = key or new_api_key()
    with nullcontext(list[Upstream]()) if real else stand_ins() as upstreams:
        host = _host([one.provider for one in upstreams] or [real_provider()], routes_to(upstreams), accounts, key)
        with serving(host, port=port) as url:
            print(INTRODUCTION)
            print(STAND_INS if upstreams else "The requests go to api.anthropic.com, and cost money.")
            if upstreams:
                upstreams[0].stand_in.enqueue(text(GREETING), text("Bonjour."), text(STORY, delay=0.04))
            _show(printer, accounts, f"{url}/llm", key)
            if upstreams:
                show_providers(printer, accounts, upstreams, f"{url}/llm", key)
            if keep:
                _offer(printer, f"{url}/llm", key, upstreams)
                _wait_for_interrupt()
    if not keep:
        printer.title("Three things to try next")
        print(NEXT)
    return 0


def _host(providers: Sequence[Provider], routes: Sequence[Route], accounts: Accounts, key: str) -> Starlette:
    """Return a host app with a page of its own, and the gateway at `/llm`."""
    messages = MessagesApp(
        auth=ApiKeys({"demo": hash_api_key(key)}),
        providers=providers,
        routes=[*routes, Route("claude-*", to=["anthropic"])],
        limits=[Limit("requests", 60)],
        on_settled=accounts.settled,
    )
    host = Starlette(routes=[HostRoute("/", _home)])
    messages.install(host, "/llm")
    return host


def _offer(printer: Printer, base_url: str, key: str, upstreams: Sequence[Upstream]) -> None:
    printer.title("Send requests of your own")
    printer.command(_curl_line(base_url, key))
    if upstreams:
        names = [route.model for route in routes_to(upstreams)]
        print(f"\nThe model selects the provider:\n  {', '.join(names)}")


async def _home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("A page of the host app\n")


def _show(printer: Printer, accounts: Accounts, base_url: str, key: str) -> None:
    printer.title("1. A request with curl")
    printer.command(_curl_line(base_url, key))
    printer.paragraph(json.dumps(json.loads(_send_curl_request(base_url, key))))
    show_account(printer, accounts.wait(1))
    with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0) as client:
        printer.title("2. The official SDK, not streaming")
        reply = client.messages.create(
            model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "Say hello in French."}]
        )
        printer.paragraph("".join(block.text for block in reply.content if block.type == "text"))
        show_account(printer, accounts.wait(2))
        printer.title("3. The official SDK, streaming")
        with client.messages.stream(
            model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "Tell the story of a request."}]
        ) as stream:
            began = time.monotonic()
            printer.stream(stream.text_stream)
        printer.fact("arrived over", f"{time.monotonic() - began:.1f} s")
        show_account(printer, accounts.wait(3))


def _headers(key: str) -> dict[str, str]:
    return {
        "x-api-key": key,
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
    }


def _curl(base_url: str, key: str) -> list[str]:
    headers = [word for name, value in _headers(key).items() for word in ("-H", f"{name}: {value}")]
    return ["curl", f"{base_url}/v1/messages", *headers, "-d", CURL_BODY]


def _curl_line(base_url: str, key: str) -> str:
    command, url, *words = map(shlex.quote, _curl(base_url, key))
    options = [f"  {flag} {value}" for flag, value in zip(words[::2], words[1::2], strict=True)]
    return " \\\n".join([f"{command} {url}", *options])


def _send_curl_request(base_url: str, key: str) -> str:
    """Send it with curl or, where that is not installed, with the standard library."""
    if shutil.which("curl"):
        command = [*_curl(base_url, key), "--silent", "--show-error", "--fail-with-body"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - a fixed command
    request = urllib.request.Request(f"{base_url}/v1/messages", CURL_BODY.encode(), _headers(key))  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as reply:  # noqa: S310 - the same
        return reply.read().decode()


def _wait_for_interrupt() -> None:
    """Wait for Ctrl-C. The handler sets a flag: `KeyboardInterrupt` can come too early, or be lost in a destructor."""
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        print("\nRunning until Ctrl-C")
        while not interrupts:
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGINT, before)
    print()
