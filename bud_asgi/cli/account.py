"""What the gateway recorded about a request, for `ask`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from bud_asgi.exchange import Attempt, Exchange
from bud_asgi.options import name_shown
from bud_asgi.protocol.usage import Usage


class AttemptAccount(msgspec.Struct, frozen=True):
    """One attempt: where, under which name of the model, how it ended, and what was left out of the request."""

    provider: str
    model: str | None
    status: int | None
    end: str | None
    failure: str | None
    dropped: tuple[str, ...]
    upstream_request_id: str | None


class Account(msgspec.Struct, frozen=True):
    """A request: who sent it, its route and attempts, the tokens, and the times in milliseconds since its arrival."""

    request_id: str
    principal: str | None
    route: str | None
    attempts: tuple[AttemptAccount, ...]
    tokens: Mapping[str, int]
    estimated: bool
    first_byte_milliseconds: float | None
    milliseconds: float | None
    stop_reason: str | None


def account_of(exchange: Exchange, stop_reason: str | None) -> Account:
    """Return the account of a request that has ended."""
    usage = exchange.usage
    return Account(
        request_id=exchange.request_id,
        principal=exchange.principal.id if exchange.principal else None,
        route=exchange.route.model if exchange.route else None,
        attempts=tuple(map(_attempt, exchange.attempts)),
        tokens={} if usage is None else _tokens(usage),
        estimated=usage is not None and usage.estimated,
        first_byte_milliseconds=_since(exchange, exchange.committed),
        milliseconds=_since(exchange, exchange.ended),
        stop_reason=stop_reason,
    )


def account_lines(account: Account) -> Iterator[str]:
    """Yield one line for each fact, its name first."""
    yield _line("request", account.request_id)
    if account.route:
        yield _line("route", account.route)
    for attempt in account.attempts:
        target = f"{attempt.provider} as {attempt.model}" if attempt.model else attempt.provider
        facts = (attempt.end, attempt.status, attempt.upstream_request_id)
        yield _line("attempt", f"{target}: {', '.join(str(fact) for fact in facts if fact)}")
        if attempt.dropped:
            yield _line("  left out", ", ".join(attempt.dropped))
    if account.tokens:
        counts = ", ".join(f"{count:,} {name}" for name, count in account.tokens.items())
        yield _line("tokens", f"{counts}{' (estimated)' if account.estimated else ''}")
    if account.first_byte_milliseconds is not None and account.milliseconds is not None:
        yield _line(
            "time", f"{account.milliseconds:,.0f} ms, to the first byte {account.first_byte_milliseconds:,.0f} ms"
        )
    if account.stop_reason:
        yield _line("stop reason", account.stop_reason)


def _line(name: str, value: str) -> str:
    return f"{name:<12}{value}"


def _attempt(attempt: Attempt) -> AttemptAccount:
    return AttemptAccount(
        provider=name_shown(attempt.target.provider),
        model=name_shown(attempt.target.model) if attempt.target.model else None,
        status=attempt.status,
        end=attempt.end,
        failure=attempt.failure,
        dropped=attempt.dropped,
        upstream_request_id=attempt.upstream_request_id,
    )


def _tokens(usage: Usage) -> Mapping[str, int]:
    counts = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cache read": usage.cache_read_input_tokens or None,
        "cache write": usage.cache_creation_input_tokens or None,
    }
    return {name: count for name, count in counts.items() if count is not None}


def _since(exchange: Exchange, time: float | None) -> float | None:
    return None if time is None else round((time - exchange.started) * 1000, 1)
