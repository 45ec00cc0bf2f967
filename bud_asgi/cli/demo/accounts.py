"""How the demo prints, within 80 columns, and what it reports about a finished request."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Iterable

from bud_asgi import Exchange

WIDTH = 78
"""Columns of a line."""


class Printer:
    """Prints with colours to a terminal, without them to a pipe."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def title(self, text: str) -> None:
        """Print the heading of a step."""
        print(f"\n{self._in('1', text)}")

    def command(self, text: str) -> None:
        """Print a shell command, which may have several lines."""
        print("\n".join(self._in("36", line) for line in text.splitlines()))

    def fact(self, name: str, *values: str) -> None:
        """Print a name and its values, side by side."""
        print(f"  {name:<22} {''.join(value.ljust(18) for value in values)}".rstrip())

    def paragraph(self, text: str) -> None:
        """Print a text, wrapped."""
        print(textwrap.fill(text, WIDTH, break_on_hyphens=False, initial_indent="  ", subsequent_indent="  "))

    def stream(self, pieces: Iterable[str]) -> None:
        """Print a text as it arrives, wrapped between its pieces."""
        column = 0
        for piece in pieces:
            if column + len(piece) > WIDTH:
                print()
                column = 0
            shown = piece if column else f"  {piece.lstrip()}"
            print(shown, end="", flush=True)
            column += len(shown)
        print()

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


class Accounts:
    """Collects finished exchanges from the server's thread; they arrive after the replies."""

    def __init__(self) -> None:
        self._settled = threading.Condition()
        self._exchanges: list[Exchange] = []

    async def settled(self, exchange: Exchange) -> None:
        """Record an exchange: the app's `on_settled` callback."""
        with self._settled:
            self._exchanges.append(exchange)
            self._settled.notify_all()

    @property
    def count(self) -> int:
        """The number of exchanges so far."""
        return len(self._exchanges)

    def wait(self, count: int) -> Exchange:
        """Wait until there are `count` exchanges, and return the latest. Raises `RuntimeError` after 5 seconds."""
        with self._settled:
            if not self._settled.wait_for(lambda: len(self._exchanges) >= count, timeout=5):
                raise RuntimeError("the request was not settled in time")
            return self._exchanges[-1]


def account_of(exchange: Exchange) -> dict[str, str]:
    """Return what the gateway recorded about a request. Raises `RuntimeError` if it was not answered."""
    attempt, usage = exchange.attempts[-1], exchange.usage
    committed, first_event = exchange.committed, attempt.first_event
    if committed is None or first_event is None or usage is None or exchange.route is None:
        raise RuntimeError(f"the request was not answered: {exchange.outcome}")
    target = attempt.target
    added = (attempt.started - exchange.started) + (committed - first_event)
    return {
        "request": f"{exchange.request_id} by {exchange.principal.id if exchange.principal else '-'}",
        "route": f"{exchange.route.model} -> {target.provider}, as {target.model or exchange.route.model}",
        "tokens": f"{usage.input_tokens} in, {usage.output_tokens} out{' (estimated)' if usage.estimated else ''}",
        "time to first event": f"{(committed - exchange.started) * 1000:.1f} ms",
        "  added by the gateway": f"{added * 1000:.2f} ms",
    }


def show_account(printer: Printer, exchange: Exchange) -> None:
    """Print what the gateway recorded about a request, one fact per line."""
    for name, value in account_of(exchange).items():
        printer.fact(name, value)
