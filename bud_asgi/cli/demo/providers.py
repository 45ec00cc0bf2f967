"""The last part of the demo: the same conversation with three providers, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import anthropic
import msgspec
from anthropic.types import MessageParam

from bud_asgi import Exchange, Route, Target
from bud_asgi.cli.demo.accounts import Accounts, Printer, account_of
from bud_asgi.cli.demo.upstreams import Upstream
from bud_asgi.testing import text

MODEL = "claude-haiku-5-5"
QUESTIONS = ("In which city does the Iller meet the Danube?", "And how tall is its minster?")
ANSWERS = ("In Ulm.", "161 m")
PATH_WIDTH = 50


class Conversation(msgspec.Struct, frozen=True):
    """A conversation with one provider: its first answer as text, its second as the bytes of the stream."""

    upstream: Upstream
    first: str
    second: bytes
    exchange: Exchange

    @property
    def name(self) -> str:
        """The name of the provider."""
        return self.upstream.provider.name

    @property
    def text(self) -> str:
        """The text of the second answer."""
        deltas = (msgspec.json.decode(data) for name, data in events_of(self.second) if name == "content_block_delta")
        return "".join(delta["delta"].get("text", "") for delta in deltas)


def routes_to(upstreams: Sequence[Upstream]) -> list[Route]:
    """Return a route for each provider: its own model name, mapped to the same model."""
    return [Route(_model_at(one), to=[Target(one.provider.name, MODEL)]) for one in upstreams]


def show_providers(
    printer: Printer, accounts: Accounts, upstreams: Sequence[Upstream], base_url: str, key: str
) -> None:
    """Run the conversation with each provider; print the upstream requests, the events and what was recorded."""
    printer.title("4. The same conversation with three providers: only the model name changes")
    with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0) as client:
        conversations = [_converse(client, accounts, upstream) for upstream in upstreams]
    for question, answers in zip(
        QUESTIONS, zip(*((one.first, one.text) for one in conversations), strict=True), strict=True
    ):
        printer.fact("you", question)
        for one, answer in zip(conversations, answers, strict=True):
            printer.fact(one.name, answer)
    printer.title("Upstream requests for the last question")
    for one in conversations:
        asked = one.upstream.stand_in.requests[-1]
        _show_path(printer, one.name, asked.target.decode())
    printer.title("Events that the client received, without pings")
    printer.fact("", *(one.name for one in conversations))
    for event in zip(*(events_of(one.second) for one in conversations), strict=True):
        printer.fact(event[0][0], *(_content_of(data) for _, data in event))
    printer.title("What the gateway recorded")
    _show_accounts(printer, conversations)


def events_of(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and data of each event of a stream, except pings, which differ between services."""
    for event in filter(None, stream.split(b"\n\n")):
        name, data = event.split(b"\n", 1)
        if name != b"event: ping":
            yield name.removeprefix(b"event: ").decode(), data.removeprefix(b"data: ")


def _converse(client: anthropic.Anthropic, accounts: Accounts, upstream: Upstream) -> Conversation:
    upstream.stand_in.enqueue(*(text(answer, delay=0.01) for answer in ANSWERS))
    model, done = _model_at(upstream), accounts.count
    messages: list[MessageParam] = [{"role": "user", "content": QUESTIONS[0]}]
    reply = client.messages.create(model=model, max_tokens=100, messages=messages)
    messages.append({"role": "assistant", "content": reply.content})
    messages.append({"role": "user", "content": QUESTIONS[1]})
    with client.messages.with_streaming_response.create(
        model=model, max_tokens=100, messages=messages, service_tier="auto", stream=True
    ) as stream:
        second = b"".join(stream.iter_bytes())
    first = "".join(block.text for block in reply.content if block.type == "text")
    return Conversation(upstream, first, second, accounts.wait(done + 2))


def _model_at(upstream: Upstream) -> str:
    return f"claude-at-{upstream.provider.name}"


def _show_accounts(printer: Printer, conversations: Sequence[Conversation]) -> None:
    printer.fact("", *(one.name for one in conversations))
    accounts = [account_of(one.exchange) for one in conversations]
    for name in ("tokens", "time to first event", "  added by the gateway"):
        printer.fact(name, *(account[name] for account in accounts))
    printer.fact(
        "fields dropped", *(", ".join(one.exchange.attempts[-1].dropped) or "nothing" for one in conversations)
    )
    printer.fact(
        "sent by the upstream", *(f"{one.upstream.stand_in.requests[-1].replied} bytes" for one in conversations)
    )
    printer.fact("received by the client", *(f"{len(one.second)} bytes" for one in conversations))


def _show_path(printer: Printer, name: str, path: str) -> None:
    """Print the path of a request, on several lines if it is long."""
    lines = [""]
    for part in path.removeprefix("/").split("/"):
        if len(lines[-1]) + len(part) > PATH_WIDTH:
            lines.append("")
        lines[-1] += f"/{part}"
    for number, line in enumerate(lines):
        printer.fact("" if number else name, f"{'' if number else 'POST':<4} {line}")


def _content_of(data: bytes) -> str:
    """Return what an event adds to the message, in 16 characters."""
    event: dict[str, Any] = msgspec.json.decode(data)
    match event:
        case {"message": {"id": str(message)}}:
            return f"{message[:13]}..."
        case {"content_block": {"type": str(content)}} | {"delta": {"stop_reason": str(content)}}:
            return content
        case {"delta": {"text": str(content)}}:
            return repr(content)
        case _:
            return "-"
