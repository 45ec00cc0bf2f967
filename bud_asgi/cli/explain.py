"""`explain`: what happened to one request, read from the access log."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO

import click
import msgspec

from bud_asgi.attempt import AttemptEnd
from bud_asgi.cli.settings import fail
from bud_asgi.printable import printable
from bud_asgi.protocol.errors import Outcome
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.telemetry import AccessLine, AttemptLine

WIDTH = 79
_COLUMN = 14
"""The column of the text, behind the time."""

ENDS: Mapping[AttemptEnd, str] = {
    "answered": "its reply was delivered",
    "unsupported": "the provider cannot express the request; nothing was sent",
    "not_sent": "no connection: nothing can have reached the upstream",
    "refused": "the upstream rejected the request itself",
    "denied": "the upstream rejected the gateway's credential, or lacks the model",
    "overloaded": "the upstream has no capacity, or failed",
    "unknown": "sent, and no usable reply arrived; it may have been billed",
    "broken": "the reply broke off, or ended with an error, after a part had been delivered",
    "client_gone": "the client disconnected first",
    "cancelled": "the request ended first, or another attempt began to answer first",
}

OUTCOMES: Mapping[Outcome, str] = {
    "answered": "the reply was delivered",
    "refused": "the gateway refused the request",
    "upstream_failed": "no upstream gave a complete reply",
    "client_gone": "the client disconnected first",
    "cancelled": "the server or a drain ended the request",
}

_LOGGED = frozenset[AttemptEnd]({"not_sent", "unknown", "broken", "denied"})
"""The ends whose reasons are logged in words. Others are mostly errors that the upstream answered with."""

_COLORS = {"info": "green", "warning": "yellow", "error": "red"}

Event = tuple[float | None, str]
"""Something that happened, and when: milliseconds from the arrival; `None` belongs to the event before it."""


class _Nested(msgspec.Struct):
    """A line of a host's own formatter, with the fields below `bud`."""

    bud: AccessLine


_decode_line = msgspec.json.Decoder(AccessLine).decode
_decode_nested = msgspec.json.Decoder(_Nested).decode


class Search(msgspec.Struct):
    """What was found in a log: the requests with the wanted id, and how much was read.

    `requests` counts all lines that may be requests; `first` and `last` are the first and the last of them.
    """

    found: list[AccessLine] = []
    lines: int = 0
    requests: int = 0
    first: bytes = b""
    last: bytes = b""


@click.command()
@click.argument("request_id", metavar="REQUEST_ID")
@click.argument("logs", metavar="[LOG]...", nargs=-1, type=click.File("rb"))
def explain(request_id: str, logs: Sequence[IO[bytes]]) -> None:
    """Describe what happened to one request, from the access log.

    Reads the lines of JSON that `serve`, or a host's own formatter, has written: from files, or from standard input.
    REQUEST_ID is the request-id that the client got, the id of the upstream, or the id of a trace. If several requests
    have it, all are shown. Other lines are skipped. The exit status is 1 if no request has it.
    """
    if not logs and sys.stdin.isatty():
        raise click.UsageError("no log: name files, or pipe one in (bud-asgi explain REQUEST_ID < access.log)")
    search = search_log(_lines(logs), request_id)
    if not search.found:
        fail(_not_found(request_id, search))
    requests = sorted(search.found, key=_arrival)
    if len(requests) > 1:
        click.echo(f"{len(requests)} requests have this id. In the order of their arrival:\n")
    click.echo("\n\n".join("\n".join(story(line)) for line in requests))


def search_log(lines: Iterable[bytes], wanted: str) -> Search:
    """Find the requests with an id: their own, that of the upstream, or that of the trace."""
    search, needle = Search(), wanted.encode("utf-8", "surrogateescape")
    for text in lines:
        search.lines += 1
        if b'"request_id"' not in text:
            continue
        search.requests, search.first, search.last = search.requests + 1, search.first or text, text
        line = _read(text) if needle in text else None
        if line is not None and wanted in {line.request_id, line.trace_id, line.upstream_request_id}:
            search.found.append(line)
    return search


def _lines(logs: Sequence[IO[bytes]]) -> Iterator[bytes]:
    for log in logs or (sys.stdin.buffer,):
        yield from log


def _read(text: bytes) -> AccessLine | None:
    """Decode a line, which may have a prefix, as those of `docker compose logs` do; `None` if it is not a request."""
    try:
        line = _decode(text[max(text.find(b"{"), 0) :])
        _arrival(line)
    except (*MALFORMED_JSON, ValueError, OverflowError):
        return None
    return line


def _decode(text: bytes) -> AccessLine:
    try:
        return _decode_line(text)
    except msgspec.ValidationError:
        return _decode_nested(text).bud


def _arrival(line: AccessLine) -> datetime:
    """When the request arrived. Raises `ValueError`, `OverflowError`."""
    return datetime.fromisoformat(line.time).astimezone(UTC) - timedelta(milliseconds=line.milliseconds)


def _not_found(wanted: str, search: Search) -> str:
    problem = f"no request has the id {printable(wanted)[:100]!r}."
    if not search.requests:
        return (
            f"{problem} None of the {search.lines:,} lines is a request in JSON: check that the access log is on,"
            " and that its format is JSON (serve --access-log-format json)"
        )
    times = " to ".join(line.time[:19] if line else "?" for line in map(_read, (search.first, search.last)))
    return (
        f"{problem} {search.requests:,} requests were read, of {times} (UTC). Check that this is the log of that time"
        " and of every worker and replica, that its level is INFO, and that the id is complete: the client has it in"
        " the header request-id and in the body of an error"
    )


def story(line: AccessLine) -> Iterator[str]:
    """The lines that describe a request, in the order of what happened."""
    what = line.operation or "no operation of this API"
    yield click.style(printable(f"Request {line.request_id}: {what}{', streamed' * line.stream}"), bold=True)
    yield _arrival(line).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield ""
    at = 0.0
    events: list[tuple[float, int, Event]] = []
    for index, event in enumerate(_events(line)):
        at = event[0] if event[0] is not None else at
        events.append((at, index, event))
    for _, _, (when, text) in sorted(events):
        yield from _rendered(when, text)
    yield from _rendered(line.milliseconds, _end(line), color=_COLORS.get(line.level))
    for text in _account(line):
        yield from _rendered(None, text)


def _rendered(when: float | None, text: str, color: str | None = None) -> Iterator[str]:
    stamp = "" if when is None else f"+{when:,.1f} ms"
    wrapped = textwrap.wrap(printable(text), WIDTH - _COLUMN, subsequent_indent="  ", break_on_hyphens=False)
    for index, piece in enumerate(wrapped):
        yield f"{stamp if index == 0 else '':>{_COLUMN - 2}}  {click.style(piece, fg=color)}"


def _events(line: AccessLine) -> Iterator[Event]:
    method = f"{line.method} {line.path} " if line.operation is None else ""
    yield 0.0, f"{method}arrived from {line.client_address or 'an unknown address'}"
    if line.user_agent:
        yield None, f"client: {line.user_agent}"
    team = f", team {line.team}" if line.team else ""
    yield None, "no caller: not authenticated" if line.principal is None else f"caller: {line.principal}{team}"
    if line.body_milliseconds is not None:
        yield line.body_milliseconds, "the body was read"
    if line.model or line.requested_model:
        yield None, _model(line)
    for limit in line.over_limits or ():
        yield None, f"over the observed limit of {limit}"
    if line.refused_by:
        yield None, f"refused by the limit of {line.refused_by}"
    attempts = line.attempts or ()
    for number, attempt in enumerate(attempts, 1):
        yield from _attempt_events(attempt, f"attempt {number}" if len(attempts) > 1 else "the attempt")
    if line.first_byte_milliseconds is not None:
        added = "" if line.added_milliseconds is None else f"; the gateway added {line.added_milliseconds:,.1f} ms"
        yield line.first_byte_milliseconds, f"the response began with status {line.status}{added}"


def _model(line: AccessLine) -> str:
    route = f", by the route {line.route}" if line.route else ""
    if line.model is None:
        return f"model: {line.requested_model}, without a route"
    requested = f", requested as {line.requested_model}" if line.requested_model else ""
    return f"model: {line.model}{requested}{route}"


def _attempt_events(attempt: AttemptLine, name: str) -> Iterator[Event]:
    start = attempt.start_milliseconds
    yield start, f"{name} began, at {attempt.target}"
    if attempt.first_event_milliseconds is not None:
        taken = f"after {attempt.first_event_milliseconds:,.1f} ms"
        yield start + attempt.first_event_milliseconds, f"{name}: the upstream began to answer, {taken}"
    if attempt.milliseconds is not None and attempt.end is not None:
        status = f" (status {attempt.status})" if attempt.status is not None else ""
        yield start + attempt.milliseconds, f"{name} ended: {attempt.end}{status}: {ENDS[attempt.end]}"


def _end(line: AccessLine) -> str:
    """How the request ended, for its client."""
    outcome = f"{line.outcome}: {OUTCOMES[line.outcome]}" if line.outcome else "without an outcome"
    status = f"status {line.status}" if line.status is not None else "no status was sent"
    error = f", {line.error_type}" if line.error_type else ""
    return f"ended: {outcome} ({status}{error})"


def _account(line: AccessLine) -> Iterator[str]:
    """What it has cost, and what to look for elsewhere."""
    if line.longest_gap_milliseconds is not None:
        yield f"longest pause of the stream: {line.longest_gap_milliseconds:,.1f} ms"
    counts = [
        ("input", line.input_tokens),
        ("output", line.output_tokens),
        ("read from the cache", line.cache_read_input_tokens),
        ("written to the cache", line.cache_creation_input_tokens),
        ("for thinking", line.thinking_tokens),
    ]
    shown = [f"{count:,} {name}" for name, count in counts if count is not None]
    if shown:
        yield f"tokens: {', '.join(shown)}{' (estimated)' * line.estimated}"
    if line.service_tier:
        yield f"service tier: {line.service_tier}"
    if line.dropped:
        yield f"left out for this target: {', '.join(line.dropped)}"
    if line.guardrail:
        yield f"guardrail: {line.guardrail}"
    if line.upstream_request_id:
        yield f"id at the upstream: {line.upstream_request_id}"
    if line.trace_id:
        yield f"trace: {line.trace_id}"
    if line.revision > 1:
        yield f"revision of the configuration: {line.revision}"
    if any(attempt.end in _LOGGED for attempt in line.attempts or ()):
        yield (
            "for the reasons, unless they are in the upstream's own errors, see the messages on stderr"
            " with the request's id"
        )
