"""The report as one HTML document. It needs nothing from outside, and its script only loads it again."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from html import escape
from itertools import islice

from bud_asgi.state import CredentialState, Reason, TargetState
from bud_asgi.status.activity import Use
from bud_asgi.status.markup import Cell, Html, badge, code, joined, seconds, table, text
from bud_asgi.status.report import HistoryRow, Report, StandingRow
from bud_asgi.status.sparkline import sparkline

MAX_ROWS = 200
"""How many targets are shown; `status.json` has all."""

_MB = 1 << 20
_AVAILABILITY = {"up": "good", "probing": "fair", "down": "bad"}
_Key = tuple[str, str | None]

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1d2330; --dim: #5c6575; --line: #dde1e8; --card: #f5f6f9;
  --good: #11713f; --bad: #b3261e; --fair: #8a5a00; --spark: #2b63c4; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171d; --fg: #e4e7ec; --dim: #98a1b1; --line: #2d333f;
  --card: #1c2029; --good: #5cc98d; --bad: #ff8a80; --fair: #e6b450; --spark: #82aaff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem; background: var(--bg); color: var(--fg);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; } h2 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0; color: var(--dim); } a { color: var(--spark); }
code { font: 12.5px/1.3 ui-monospace, monospace; display: inline-block; width: max-content; max-width: 16rem;
  overflow-wrap: break-word; }
b.good { color: var(--good); } b.bad { color: var(--bad); } b.fair { color: var(--fair); }
ul { margin: .5rem 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .5rem; margin: 1rem 0 0; }
dl div { background: var(--card); border-radius: .4rem; padding: .5rem .75rem; }
dt { color: var(--dim); font-size: .85em; } dd { margin: 0; font-size: 1.15em; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th { color: var(--dim); font-weight: 600; font-size: .85em; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { width: 120px; height: 24px; display: block; } svg path { fill: none; stroke: var(--spark); stroke-width: 1.5;
  stroke-linecap: round; stroke-linejoin: round; } svg rect { fill: var(--bad); }
#stale { display: none; color: var(--bad); } .stale #stale { display: block; } .stale main { opacity: .5; }
section { overflow-x: auto; }
@media (max-width: 62rem) {
  thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  tr { background: var(--card); border-radius: .4rem; padding: .4rem .75rem; margin-bottom: .5rem; }
  td, td.n { border: 0; padding: .15rem 0; text-align: right; white-space: normal; overflow-wrap: anywhere; }
  td::after { content: ""; display: block; clear: both; } td:empty { display: none; }
  td::before { content: attr(data-label); color: var(--dim); float: left; margin-right: 1rem; }
  svg { display: inline-block; }
}
"""

SCRIPT = """
const main = document.querySelector("main");
async function update() {
  if (!document.hidden && getSelection().isCollapsed) {
    try {
      const reply = await fetch(location.href, { cache: "no-store" });
      if (!reply.ok) throw new Error(reply.status);
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      main.replaceChildren(...page.querySelector("main").childNodes);
      document.title = page.title;
      document.body.className = "";
    } catch {
      document.body.className = "stale";
    }
  }
  setTimeout(update, 2000);
}
setTimeout(update, 2000);
"""


def _source(code: str) -> str:
    return f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src {_source(SCRIPT)}; style-src {_source(STYLE)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def render(report: Report, json_href: str) -> bytes:
    """Render the document. `json_href` is where its data is. Lets other tasks run between the sections."""
    parts = [_head(report), _summary(report, json_href)]
    for title, section in _SECTIONS.items():
        await asyncio.sleep(0)
        parts.append(f"<section><h2>{title}</h2>{section(report)}</section>")
    parts.append("</main></body></html>")
    return "".join(parts).encode()


def _head(report: Report) -> str:
    ready = "ready" if report.app.ready else "NOT READY"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f'<title>{ready}: bud-asgi</title><link rel="icon" href="data:,">'
        f'<noscript><meta http-equiv="refresh" content="5"></noscript><style>{STYLE}</style>'
        f'<script type="module">{SCRIPT}</script></head><body>'
        '<p id="stale">The gateway does not respond: this page is out of date.</p><main>'
    )


def _summary(report: Report, json_href: str) -> str:
    app = report.app
    ready = badge("ready", "good") if app.ready else badge("not ready", "bad")
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(report.at))
    reasons = "".join(map(_reason, app.reasons))
    budget = app.retry_budget
    figures: dict[str, Cell] = {
        "Uptime": seconds(app.uptime),
        "Requests in flight": app.requests,
        "Streams": app.streams,
        "Waiting for a limit": app.waiting,
        "Request bodies": f"{app.body_bytes / _MB:,.1f} of {app.body_budget / _MB:,.0f} MB",
        "Retries in a minute": f"{budget.retries} of {budget.allowed:g} allowed",
        "Background tasks": app.background_tasks,
    }
    cards = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in figures.items())
    return (
        f"<h1>bud-asgi {text(app.version)}: {ready}</h1>"
        f"<p>Configuration {app.revision}, process {report.pid}, {at} UTC. "
        f'<a href="{escape(json_href)}">status.json</a></p>'
        f"{f'<ul>{reasons}</ul>' if reasons else ''}<dl>{cards}</dl>"
    )


def _reason(reason: Reason) -> str:
    return f"<li>{badge(reason.code.replace('_', ' '), 'bad' if reason.blocks else 'fair')} {text(reason.message)}</li>"


def _targets(report: Report) -> Html:
    states = {(one.target.provider, one.target.model): one for one in report.app.targets}
    history = {(one.provider, one.model): one for one in report.history}
    rows = list(islice(_target_rows(report, states, history), MAX_ROWS + 1))
    note = f"<p>The first {MAX_ROWS} are shown.</p>" if len(rows) > MAX_ROWS else ""
    columns = ("Route", "Target", "State", "Breaker", "In flight", "First event", "Last 10 minutes")
    numbers = ("In flight", "First event", "Calls", "Failed")
    return Html(table((*columns, "Calls", "Failed", "Last failure"), rows[:MAX_ROWS], numbers=numbers) + note)


def _target_rows(
    report: Report, states: dict[_Key, TargetState], history: dict[_Key, HistoryRow]
) -> Iterator[Sequence[Cell]]:
    """The targets of the routes, then those of no route: a router that is a function has chosen them."""
    others = dict(states)
    for route in report.app.routes:
        for target in route.targets:
            key = target.provider, target.model
            others.pop(key, None)
            yield [code(route.model), *_target(states[key], history.get(key))]
    for key, state in others.items():
        yield [None, *_target(state, history.get(key))]


def _target(state: TargetState, history: HistoryRow | None) -> Sequence[Cell]:
    wait = None if state.retry_in is None else f"for {seconds(state.retry_in)}"
    failure = None
    if state.last_failure_age is not None:
        failure = f"{state.last_failure}, {seconds(state.last_failure_age)} ago"
    return [
        code(state.target.name),
        joined(badge(state.state, _AVAILABILITY[state.state]), state.reason, wait),
        state.breaker.replace("_", " "),
        state.in_flight,
        seconds(state.first_byte),
        None if history is None else sparkline(history.first_byte, history.failed),
        state.calls,
        state.failures,
        failure,
    ]


def _streams(report: Report) -> Html:
    rows = [
        (
            code(one.request_id),
            seconds(one.age),
            *map(code, (one.principal, one.model, one.route, one.target)),
            one.pieces,
        )
        for one in report.streams
    ]
    more = report.app.streams - len(rows)
    note = f"<p>The oldest; {more} more.</p>" if more > 0 else ""
    columns = ("Request", "Age", "Caller", "Model", "Route", "Target", "Pieces sent")
    return Html(table(columns, rows, numbers=("Age", "Pieces sent")) + note)


def _limits(report: Report) -> Html:
    rows = [
        (code(one.name) if one.name else "all", one.limit, one.per, round(one.used), _share(_used_share(one)))
        for one in sorted(report.limits, key=_used_share, reverse=True)
    ]
    error = f"<p>The limits of callers are unavailable: {text(report.limits_error)}.</p>" if report.limits_error else ""
    return Html(table(("For", "Limit", "Counted per", "Used", "Share"), rows, numbers=("Used", "Share")) + error)


def _used_share(row: StandingRow) -> float:
    return row.used / row.amount


def _share(share: float) -> Html:
    return badge(f"{share:.0%}", "bad" if share >= 1.0 else "fair" if share >= 0.8 else "good")


def _keys(report: Report) -> Html:
    rows: list[Sequence[Cell]] = [[code(one.principal), one.team, *_use(one.use)] for one in report.keys]
    if report.other_keys.requests:
        rows.append(["all others", None, *_use(report.other_keys)])
    numbers = ("Requests", "Failed", "Input", "Output", "Cache read", "Cache creation")
    return table(("Caller", "Team", *numbers), rows, numbers=numbers)


def _use(use: Use) -> Sequence[Cell]:
    tokens = (use.input_tokens, use.output_tokens, use.cache_read_tokens, use.cache_creation_tokens)
    return [use.requests, use.failed, *tokens]


def _connections(report: Report) -> Html:
    rows = [[code(one.origin), one.busy, one.idle, one.reused, one.stale_retries] for one in report.app.pools]
    numbers = ("Busy", "Idle", "Reused", "Found closed")
    return table(("Origin", *numbers), rows, numbers=numbers)


def _credentials(report: Report) -> Html:
    rows = [
        (code(one.provider), _usability(one), seconds(one.age), seconds(one.expires_in))
        for one in report.app.credentials
    ]
    return table(("Provider", "Credential", "Age", "Expires in"), rows, numbers=("Age", "Expires in"))


def _usability(credential: CredentialState) -> Html:
    if not credential.usable:
        return badge("cannot be fetched", "bad")
    return badge("the last refresh failed", "fair") if credential.failing else badge("usable", "good")


def _refusals(report: Report) -> Html:
    rows = [
        [
            f"{seconds(report.at - one.at)} ago",
            one.status,
            joined(one.error, one.limit and f"({one.limit})"),
            one.outcome.replace("_", " "),
            code(one.principal),
            code(one.model),
            one.count,
            code(one.request_id),
        ]
        for one in report.refusals
    ]
    columns = ("Last", "Status", "Error", "Outcome", "Caller", "Model", "Times", "Request")
    return table(columns, rows, numbers=("Status", "Times"))


_SECTIONS: dict[str, Callable[[Report], Html]] = {
    "Routes and targets": _targets,
    "Streams in flight": _streams,
    "Limits": _limits,
    "Tokens by key since the start": _keys,
    "Connections": _connections,
    "Credentials": _credentials,
    "Recent refusals and failures": _refusals,
}
