"""`check`: what a configuration would serve, what looks wrong in it, and with `--live` whether its providers answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import msgspec

from bud_asgi.cli.live import LiveResult, call_providers
from bud_asgi.cli.settings import EXIT_FAILED, EXIT_WRONG, read_settings, report_config_errors
from bud_asgi.cli.summary import Summary, show_settings, summary_of
from bud_asgi.cli.tables import cell_shown, table
from bud_asgi.cli.terminal import columns, echo_problem, echo_text
from bud_asgi.cli.warnings import problems_in, warnings_of
from bud_asgi.config import ConfigError, Problem, Settings


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `check --json` writes. `serves` is `None` if the configuration is invalid, `live` without `--live`."""

    source: str
    valid: bool
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    serves: Summary | None = None
    live: tuple[LiveResult, ...] | None = None


def check_config(config: str | None, *, live: bool, as_json: bool) -> int:
    """Check a configuration, write what was found, and return the exit status."""
    if as_json:
        return _check_as_json(config, live=live)
    with report_config_errors():
        settings = read_settings(config)
    echo_text(f"{settings.source} is valid. It serves:")
    click.echo(f"\n{show_settings(settings, columns(sys.stdout))}")
    for warning in warnings_of(settings):
        echo_problem("warning", warning)
    if not live:
        return 0
    results = call_providers(settings)
    rows = [(one.provider, one.model or "-", one.outcome) for one in results]
    click.echo(f"\n{table(('PROVIDER', 'MODEL', 'ANSWER'), rows, columns(sys.stdout))}")
    for problem in failures_of(settings, results):
        echo_problem("error", problem)
    return EXIT_FAILED if any(not one.ok for one in results) else 0


def failures_of(settings: Settings, results: Sequence[LiveResult]) -> Sequence[Problem]:
    """Return an error for each provider that failed, with its line, and with what to do."""
    problems = problems_in(settings)
    for one in results:
        if not one.ok:
            what = f"{one.model}: " if one.model else ""
            problems.add(("providers", one.provider), f"{what}{one.message}; {one.advice}")
    return problems.in_order()


def _check_as_json(config: str | None, *, live: bool) -> int:
    try:
        settings = read_settings(config)
    except ConfigError as error:
        source = error.problems[0].source if error.problems else config or "environment"
        _write(Report(source=source, valid=False, problems=error.problems))
        return EXIT_WRONG
    results = call_providers(settings) if live else None
    _write(
        Report(
            source=settings.source,
            valid=True,
            warnings=tuple(warnings_of(settings)),
            serves=summary_of(settings),
            live=None if results is None else tuple(map(_without_secrets, results)),
        )
    )
    return EXIT_FAILED if any(not one.ok for one in results or ()) else 0


def _without_secrets(result: LiveResult) -> LiveResult:
    model = None if result.model is None else cell_shown(result.model)
    return msgspec.structs.replace(result, provider=cell_shown(result.provider), model=model)


def _write(report: Report) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(report)))
