"""`ask`: one request through a configuration, in this process, with a summary."""

from __future__ import annotations

import asyncio
import os
import sys

import click
import msgspec
from starlette.types import Message, Scope

from bud_asgi.cli.account import Account, account_lines, account_of
from bud_asgi.cli.keys import caller_named
from bud_asgi.cli.settings import EXIT_FAILED
from bud_asgi.cli.terminal import Progress, echo_problem, log_as_problems
from bud_asgi.config import Settings
from bud_asgi.exchange import Exchange, Principal
from bud_asgi.http import Header
from bud_asgi.printable import printable
from bud_asgi.protocol.errors import read_error
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.sse import parse_event, split_events

OPERATOR = Principal(id="operator")
"""The caller of `ask` without `--principal`: it may use every model."""

_HEADERS = [(b"anthropic-version", b"2023-06-01"), (b"content-type", b"application/json")]


class Question(msgspec.Struct, frozen=True):
    """The question: the model, the text of the user, and how many tokens the answer may have."""

    model: str
    text: str
    max_tokens: int


class Result(msgspec.Struct, frozen=True):
    """What `ask --json` writes. `error` is `None` for an answer that is complete."""

    text: str
    error: str | None
    account: Account


class Answer:
    """Receives the response of the app: writes a stream's text as it arrives, and keeps the body for an error."""

    def __init__(self, progress: Progress, *, quiet: bool) -> None:
        self.status = 0
        self.body = b""
        self.stop_reason: str | None = None
        self.text = ""
        self._progress, self._quiet = progress, quiet
        self._is_stream, self._rest = False, b""
        self._plain = not sys.stdout.isatty()

    async def send(self, message: Message) -> None:
        """ASGI's `send`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._is_stream = (b"content-type", b"text/event-stream") in [
                (name, value[:17]) for name, value in message["headers"]
            ]
        elif message["type"] == "http.response.body":
            self._take(message.get("body", b""))

    def _take(self, body: bytes) -> None:
        if not self._is_stream:
            self.body += body
            return
        *events, self._rest = [*split_events(self._rest + body), b""]
        if events and not events[-1].endswith((b"\n\n", b"\r\r", b"\r\n\r\n")):
            self._rest = events.pop()
        for event in events:
            parsed = parse_event(event)
            if parsed is not None:
                self._on_event(parsed.data)

    def _on_event(self, data: bytes) -> None:
        try:
            event = msgspec.json.decode(data, type=_Event)
        except MALFORMED_JSON:  # relayed as it is, such as the [DONE] of other APIs
            return
        if event.type == "error":
            self.body = data
        elif event.delta is not None:
            self.stop_reason = event.delta.stop_reason or self.stop_reason
            self._write(event.delta.text)

    def _write(self, text: str) -> None:
        self.text += text
        if text and not self._quiet:
            self._progress.end()
            # The text of a model must not control the terminal.
            safe = text if self._plain else "\n".join(map(printable, text.split("\n")))
            click.echo(safe, nl=False)


class _Delta(msgspec.Struct, frozen=True):
    text: str = ""
    stop_reason: str | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    delta: _Delta | None = None


def ask_model(settings: Settings, question: Question, name: str | None, *, as_json: bool) -> int:
    """Send a request, write the answer to stdout and a summary to stderr, and return the exit status.

    `name` is that of the key whose permissions, limits and routes apply. With `as_json`, both are one object on stdout.
    Raises `ConfigError`, and `click.BadParameter` for an unknown name.
    """
    principal = OPERATOR if name is None else caller_named(settings, name)
    with log_as_problems(), Progress(f"waiting for {question.model}") as progress:
        answer = Answer(progress, quiet=as_json)
        exchange = asyncio.run(_call(settings, principal, question, answer))
    account, error = account_of(exchange, answer.stop_reason), _error_of(answer)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(Result(answer.text, error, account))))
        return EXIT_FAILED if error else 0
    if answer.text and not answer.text.endswith("\n"):
        click.echo()
    for line in account_lines(account):
        click.secho(line, dim=True, err=True)
    if error:
        echo_problem("error", error)
    return EXIT_FAILED if error else 0


async def _call(settings: Settings, principal: Principal, question: Question, answer: Answer) -> Exchange:
    body = {
        "model": question.model,
        "max_tokens": question.max_tokens,
        "stream": True,
        "messages": [{"role": "user", "content": question.text}],
    }
    unread: list[Message] = [{"type": "http.request", "body": msgspec.json.encode(body), "more_body": False}]

    async def receive() -> Message:
        return unread.pop() if unread else await asyncio.Future()

    headers, path = [*_HEADERS, *_client_key(settings)], "/v1/messages"
    scope: Scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    exchange = Exchange.of(scope)
    exchange.principal = principal
    messages = settings.app()
    async with messages.lifespan():
        await messages(scope, receive, answer.send)
    return exchange


def _client_key(settings: Settings) -> list[Header]:
    """The key of a client, from the variable that SDKs read it from, if a provider gets that one."""
    key = os.environ.get("ANTHROPIC_API_KEY")
    if key and any(not provider.credential.is_operators for provider in settings.providers):
        return [(b"x-api-key", key.encode())]
    return []


def _error_of(answer: Answer) -> str | None:
    if not answer.body:
        return None
    error = read_error(answer.body)
    words = f"{error.type}: {error.message}" if error else printable(answer.body[:300].decode(errors="replace"))
    return words if answer.status == 200 else f"{answer.status} {words}"
