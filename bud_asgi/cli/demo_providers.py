"""The last part of the demo: one conversation at three providers, its last answer byte by byte, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import anthropic
import msgspec
from anthropic.types import MessageParam

from bud_asgi import Exchange, Route, Target
from bud_asgi.cli.demo_accounts import Accounts, Printer, account_of
from bud_asgi.cli.demo_upstreams import Upstream
from bud_asgi.testing import text

MODEL = "claude-haiku-4-5"
QUESTIONS = ("In which city does the Iller meet the Danube?", "And how tall is its minster?")
ANSWERS = ("In Ulm.", "161 m")
_WIDTH = 100


class Told(msgspec.Struct, frozen=True):
    """What one provider's part of the conversation came to: its first answer, and its second as it came."""

    upstream: Upstream
    first: str
    second: bytes
    exchange: Exchange

    @property
    def name(self) -> str:
        """The provider's."""
        return self.upstream.provider.name

    @property
    def text(self) -> str:
        """What the second answer says."""
        deltas = (msgspec.json.decode(data) for name, data in events_of(self.second) if name == "content_block_delta")
        return "".join(delta["delta"].get("text", "") for delta in deltas)


def routes_to(upstreams: Sequence[Upstream]) -> list[Route]:
    """A model name for each provider, which leads to the same model there."""
    return [Route(_model_at(one), to=[Target(one.provider.name, MODEL)]) for one in upstreams]


def show_providers(
    printer: Printer, accounts: Accounts, upstreams: Sequence[Upstream], base_url: str, key: str
) -> None:
    """Hold the conversation with each, and show what went up, what came down, and the accounts."""
    printer.title("4. The same conversation at three providers: the client changes nothing but the model's name")
    with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0) as client:
        told = [_converse(client, accounts, upstream) for upstream in upstreams]
    for question, answers in zip(QUESTIONS, zip(*((one.first, one.text) for one in told), strict=True), strict=True):
        printer.fact("you", question)
        for one, answer in zip(told, answers, strict=True):
            printer.fact(one.name, answer)
    printer.title("What went up for the last question")
    for one in told:
        asked = one.upstream.stand_in.requests[-1]
        printer.fact(one.name, f"POST {asked.target.decode()}")
    printer.title("What the client got for it, pings aside")
    for event in zip(*(events_of(one.second) for one in told), strict=True):
        print(f"  {event[0][0]}")
        for one, (_, data) in zip(told, event, strict=True):
            print(f"    {one.name:<10} {_cut(data.decode())}")
    printer.title("What the gateway knows of it")
    _show_accounts(printer, told)


def events_of(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """The events of a stream of the Messages API, name and data, but for the pings: each service has its own."""
    for event in filter(None, stream.split(b"\n\n")):
        name, data = event.split(b"\n", 1)
        if name != b"event: ping":
            yield name.removeprefix(b"event: ").decode(), data.removeprefix(b"data: ")


def _converse(client: anthropic.Anthropic, accounts: Accounts, upstream: Upstream) -> Told:
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
    return Told(upstream, first, second, accounts.wait(done + 2))


def _model_at(upstream: Upstream) -> str:
    return f"claude-at-{upstream.provider.name}"


def _show_accounts(printer: Printer, told: Sequence[Told]) -> None:
    printer.fact("", *(one.name for one in told))
    accounts = [account_of(one.exchange) for one in told]
    for name in ("tokens", "time to first event", "  added by the gateway"):
        printer.fact(name, *(account[name] for account in accounts))
    printer.fact("left out for it", *(", ".join(one.exchange.attempts[-1].dropped) or "nothing" for one in told))
    printer.fact("the upstream sent", *(f"{one.upstream.stand_in.requests[-1].replied} bytes" for one in told))
    printer.fact("the client got", *(f"{len(one.second)} bytes of events" for one in told))


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."
