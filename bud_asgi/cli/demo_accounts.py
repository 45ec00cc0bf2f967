"""What the demo tells of a request when it is over: what the gateway knows of it, and measured, not estimated."""

from __future__ import annotations

import os
import sys
import threading

from bud_asgi import Exchange


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

    def fact(self, name: str, *values: str) -> None:
        """A line of an account, or of several side by side."""
        print(f"  {name:<24} {''.join(value.ljust(24) for value in values)}".rstrip())

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

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._exchanges)

    def wait(self, count: int) -> Exchange:
        """The latest account, once there are that many."""
        with self._settled:
            if not self._settled.wait_for(lambda: len(self._exchanges) >= count, timeout=5):
                raise RuntimeError("the account of the request did not come")
            return self._exchanges[-1]


def account_of(exchange: Exchange) -> dict[str, str]:
    """What the gateway knows of a request, in words by name. Raises `RuntimeError` if it was not answered."""
    attempt, usage = exchange.attempts[-1], exchange.usage
    committed, first_event = exchange.committed, attempt.first_event
    if committed is None or first_event is None or usage is None or exchange.route is None:
        raise RuntimeError(f"the request was not answered: {exchange.outcome}")
    target = attempt.target
    added = (attempt.started - exchange.started) + (committed - first_event)
    return {
        "request": f"{exchange.request_id} by {exchange.principal.id if exchange.principal else '-'}",
        "route": f"{exchange.route.model} -> {target.provider}, as {target.model or exchange.route.model}",
        "tokens": f"{usage.input_tokens} in, {usage.output_tokens} out",
        "time to first event": f"{(committed - exchange.started) * 1000:.1f} ms",
        "  added by the gateway": f"{added * 1000:.2f} ms",
    }


def show_account(printer: Printer, exchange: Exchange) -> None:
    """The account of one request, a line for each fact."""
    for name, value in account_of(exchange).items():
        printer.fact(name, value)
