"""A demonstration: the gateway mounted in a Starlette app, with upstreams behind it and real clients in front.

bud-asgi demo              with stand-ins for all three providers: no key, no network, no cost
bud-asgi demo --keep       the same, and keep it running for your own requests
bud-asgi demo --real       with api.anthropic.com and ANTHROPIC_API_KEY: this costs money
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import nullcontext

import anthropic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as HostRoute

from bud_asgi import ApiKeys, Limit, MessagesApp, Route, Target, hash_api_key, new_api_key
from bud_asgi.cli.demo_accounts import Accounts, Printer, show_account
from bud_asgi.cli.demo_providers import MODEL, routes_to, show_providers
from bud_asgi.cli.demo_upstreams import Upstream, real_provider, stand_ins
from bud_asgi.providers import Provider
from bud_asgi.testing import text
from bud_asgi.testing.server.serving import serving

CURL_MODEL = "claude-3-5-sonnet-20241022"
"""The model of Anthropic's curl example. It is retired, so a route maps it to a current one."""

CURL_BODY = (
    f'{{"model": "{CURL_MODEL}", "max_tokens": 1024, "messages": [{{"role": "user", "content": "Hello, Claude!"}}]}}'
)
KEEP_PORT = 8808
GREETING = "Hello! How can I help you today?"
STORY = (
    "Once upon a time a client sent a request. The gateway checked its key, found its route, counted it, "
    "and sent it on to a model; and the words of the answer came back one by one, as they were written."
)


def run(*, keep: bool, real: bool, port: int, key: str | None) -> int:
    """Run the demo. Returns the exit status."""
    if real and not os.environ.get("ANTHROPIC_API_KEY"):
        print("--real requires ANTHROPIC_API_KEY; without --real the demo needs no key", file=sys.stderr)
        return 2
    printer, accounts = Printer(), Accounts()
    key = key or new_api_key()
    with nullcontext(list[Upstream]()) if real else stand_ins() as upstreams:
        host = _host([one.provider for one in upstreams] or [real_provider()], routes_to(upstreams), accounts, key)
        with serving(host, port=port) as url:
            printer.title(f"A Starlette app at {url}, with the Messages API mounted at {url}/llm")
            if upstreams:
                upstreams[0].stand_in.enqueue(text(GREETING), text("Bonjour."), text(STORY, delay=0.04))
            _show(printer, accounts, f"{url}/llm", key)
            if upstreams:
                show_providers(printer, accounts, upstreams, f"{url}/llm", key)
            printer.title("Try it yourself")
            if keep:
                _offer(printer, f"{url}/llm", key, upstreams)
                _wait_for_interrupt()
            else:
                printer.command(f"make demo ARGS='--keep --port {KEEP_PORT} --key {key}'")
                _offer(printer, f"http://127.0.0.1:{KEEP_PORT}/llm", key, upstreams)
    return 0


def _host(providers: Sequence[Provider], routes: Sequence[Route], accounts: Accounts, key: str) -> Starlette:
    """Return a host app with a page of its own, and the gateway at `/llm`."""
    messages = MessagesApp(
        auth=ApiKeys({"demo": hash_api_key(key)}),
        providers=providers,
        routes=[Route(CURL_MODEL, to=[Target("anthropic", MODEL)]), *routes, Route("claude-*", to=["anthropic"])],
        limits=[Limit("requests", 60)],
        on_settled=accounts.settled,
    )
    host = Starlette(routes=[HostRoute("/", _home)])
    messages.install(host, "/llm")
    return host


def _offer(printer: Printer, base_url: str, key: str, upstreams: Sequence[Upstream]) -> None:
    printer.command(_curl_line(base_url, key))
    if upstreams:
        names = [route.model for route in routes_to(upstreams)]
        print(f"The model name selects the provider: {', '.join(names)}.")


async def _home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("A page of the host app\n")


def _show(printer: Printer, accounts: Accounts, base_url: str, key: str) -> None:
    printer.title("1. A request with curl")
    printer.command(_curl_line(base_url, key))
    print(_send_curl_request(base_url, key))
    show_account(printer, accounts.wait(1))
    with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0) as client:
        printer.title("2. The official SDK, not streaming")
        reply = client.messages.create(
            model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "Say hello in French."}]
        )
        print("".join(block.text for block in reply.content if block.type == "text"))
        show_account(printer, accounts.wait(2))
        printer.title("3. The official SDK, streaming")
        with client.messages.stream(
            model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "Tell the story of a request."}]
        ) as stream:
            began = time.monotonic()
            for piece in stream.text_stream:
                print(piece, end="", flush=True)
        print(f"\n  (arrived over {time.monotonic() - began:.1f} s)")
        show_account(printer, accounts.wait(3))


def _headers(key: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "anthropic-version": "2023-06-01",
    }


def _curl(base_url: str, key: str) -> list[str]:
    headers = [word for name, value in _headers(key).items() for word in ("-H", f"{name}: {value}")]
    return ["curl", f"{base_url}/v1/messages", *headers, "-d", CURL_BODY]


def _curl_line(base_url: str, key: str) -> str:
    return " ".join(shlex.quote(word) for word in _curl(base_url, key))


def _send_curl_request(base_url: str, key: str) -> str:
    """Send it with curl or, where that is not installed, with the standard library."""
    if shutil.which("curl"):
        command = [*_curl(base_url, key), "--silent", "--show-error", "--fail-with-body"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - a fixed command
    request = urllib.request.Request(f"{base_url}/v1/messages", CURL_BODY.encode(), _headers(key))  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as reply:  # noqa: S310 - the same
        return reply.read().decode()


def _wait_for_interrupt() -> None:
    print("\nRunning until Ctrl-C")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    from bud_asgi.cli.commands import demo  # the same command, without click's group

    demo(prog_name="python -m bud_asgi.cli.demo")
