"""The main job, shown: a host with the endpoint mounted, an upstream behind it, and real clients in front.

bud-asgi demo              against the stand-in upstream: no key, no network, no cost
bud-asgi demo --keep       and leave it running, for requests of your own
bud-asgi demo --real       against api.anthropic.com, with ANTHROPIC_API_KEY: this costs money
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
from collections.abc import Generator
from contextlib import contextmanager

import anthropic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as HostRoute

from bud_asgi import (
    Anthropic,
    ApiKeys,
    Exchange,
    Limit,
    MessagesApp,
    Route,
    Secret,
    Target,
    hash_api_key,
    new_api_key,
)
from bud_asgi.testing import StandIn, text
from bud_asgi.testing.serving import serving

PAGE_MODEL = "claude-3-5-sonnet-20241022"
"""The model of the page's own example; it is retired, so the demo's table leads it to a current one."""

PAGE_BODY = (
    f'{{"model": "{PAGE_MODEL}", "max_tokens": 1024, "messages": [{{"role": "user", "content": "Hello, Claude!"}}]}}'
)
MODEL = "claude-haiku-4-5"
KEEP_PORT = 8808
STORY = (
    "Once upon a time a request set out from a client. It showed its key, learned its route, was counted, "
    "and went up to a model; and the words came down again, one by one, as they were made."
)


class Printer:
    """Writes to a terminal with some colour, and to a pipe without."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def title(self, words: str) -> None:
        """A step of the demo."""
        print(f"\n{self._in('1', words)}")

    def command(self, words: str) -> None:
        """What could be typed."""
        print(self._in("36", words))

    def fact(self, name: str, value: str) -> None:
        """A line of an account."""
        print(f"  {name:<24} {value}")

    def _in(self, code: str, words: str) -> str:
        return f"\x1b[{code}m{words}\x1b[0m" if self._colour else words


class Accounts:
    """Collects the finished exchanges, which come after the replies, from the server's thread."""

    def __init__(self) -> None:
        self._settled = threading.Condition()
        self._exchanges: list[Exchange] = []

    async def settled(self, exchange: Exchange) -> None:
        """The host's own callback, handed to the app as `on_settled`."""
        with self._settled:
            self._exchanges.append(exchange)
            self._settled.notify_all()

    def wait(self, count: int) -> Exchange:
        """The latest account, once there are that many."""
        with self._settled:
            if not self._settled.wait_for(lambda: len(self._exchanges) >= count, timeout=5):
                raise RuntimeError("the account of the request did not come")
            return self._exchanges[-1]


def run(*, keep: bool, real: bool, port: int, key: str | None) -> int:
    """Run the demo. Returns the exit status."""
    if real and not os.environ.get("ANTHROPIC_API_KEY"):
        print("--real needs ANTHROPIC_API_KEY; without --real nothing is spent", file=sys.stderr)
        return 2
    printer, accounts = Printer(), Accounts()
    key = key or new_api_key()
    with _upstream(real=real) as provider:
        messages = MessagesApp(
            auth=ApiKeys({"demo": hash_api_key(key)}),
            providers=[provider],
            routes=[Route(PAGE_MODEL, to=[Target("anthropic", MODEL)]), Route("claude-*", to=["anthropic"])],
            limits=[Limit("requests", 60)],
            on_settled=accounts.settled,
        )
        host = Starlette(routes=[HostRoute("/", _home)])
        messages.install(host, "/llm")
        with serving(host, port=port) as url:
            printer.title(f"A Starlette app at {url}, with the Messages API mounted at {url}/llm")
            _show(printer, accounts, f"{url}/llm", key)
            printer.title("Try it yourself")
            if keep:
                printer.command(_curl_line(f"{url}/llm", key))
                _wait_for_interrupt()
            else:
                printer.command(f"make demo ARGS='--keep --port {KEEP_PORT} --key {key}'")
                printer.command(_curl_line(f"http://127.0.0.1:{KEEP_PORT}/llm", key))
    return 0


@contextmanager
def _upstream(*, real: bool) -> Generator[Anthropic]:
    if real:
        base_url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
        yield Anthropic(api_key=Secret.from_env("ANTHROPIC_API_KEY"), base_url=base_url)
        return
    with StandIn(api_key="sk-ant-stand-in").in_thread() as stand_in:
        stand_in.enqueue(text("Hello! How can I help you today?"), text("Bonjour."), text(STORY, delay=0.04))
        yield Anthropic(api_key="sk-ant-stand-in", base_url=stand_in.base_url)


async def _home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("the host's own page\n")


def _show(printer: Printer, accounts: Accounts, base_url: str, key: str) -> None:
    printer.title("1. The page's own request")
    printer.command(_curl_line(base_url, key))
    print(_send_page_request(base_url, key))
    _account(printer, accounts.wait(1))
    with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0) as client:
        printer.title("2. The official SDK, not streaming")
        reply = client.messages.create(
            model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "Say hello in French."}]
        )
        print("".join(block.text for block in reply.content if block.type == "text"))
        _account(printer, accounts.wait(2))
        printer.title("3. The official SDK, streaming: the text as it arrives")
        with client.messages.stream(
            model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "Tell the story of a request."}]
        ) as stream:
            began = time.monotonic()
            for piece in stream.text_stream:
                print(piece, end="", flush=True)
        print(f"\n  (arrived over {time.monotonic() - began:.1f} s)")
        _account(printer, accounts.wait(3))


def _account(printer: Printer, exchange: Exchange) -> None:
    """What the gateway knows of a request when it is over; what it added is measured, not estimated."""
    attempt, usage = exchange.attempts[-1], exchange.usage
    committed, first_event = exchange.committed, attempt.first_event
    if committed is None or first_event is None or usage is None or exchange.route is None:
        raise RuntimeError(f"the request was not answered: {exchange.outcome}")
    added = (attempt.started - exchange.started) + (committed - first_event)
    printer.fact("request", f"{exchange.request_id} by {exchange.principal.id if exchange.principal else '-'}")
    target = attempt.target
    printer.fact("route", f"{exchange.route.model} -> {target.provider}, as {target.model or exchange.route.model}")
    printer.fact("tokens", f"{usage.input_tokens} in, {usage.output_tokens} out")
    printer.fact("time to first event", f"{(committed - exchange.started) * 1000:.1f} ms")
    printer.fact("  added by the gateway", f"{added * 1000:.2f} ms")


def _headers(key: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "anthropic-version": "2023-06-01",
    }


def _curl(base_url: str, key: str) -> list[str]:
    headers = [word for name, value in _headers(key).items() for word in ("-H", f"{name}: {value}")]
    return ["curl", f"{base_url}/v1/messages", *headers, "-d", PAGE_BODY]


def _curl_line(base_url: str, key: str) -> str:
    return " ".join(shlex.quote(word) for word in _curl(base_url, key))


def _send_page_request(base_url: str, key: str) -> str:
    """By curl; on a machine without it, the same request by the standard library."""
    if shutil.which("curl"):
        command = [*_curl(base_url, key), "--silent", "--show-error", "--fail-with-body"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own words
    request = urllib.request.Request(f"{base_url}/v1/messages", PAGE_BODY.encode(), _headers(key))  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as reply:  # noqa: S310 - the same
        return reply.read().decode()


def _wait_for_interrupt() -> None:
    print("\nrunning until Ctrl-C")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    from bud_asgi.cli.commands import demo  # a command like the others, under this name as well

    demo(prog_name="python -m bud_asgi.cli.demo")
