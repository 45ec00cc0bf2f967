"""The contract, row by row: the gateway keeps it, and each row's test notices when it is bent."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from bud_asgi.testing import ThreadedStandIn
from contract.bending import Bender, Bent, passes_on
from contract.line import Line, line_to
from contract.table import CONTRACT, NAMES, ROWS, RULES, Check

CHECKS = pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.name)
BENDINGS: list[tuple[Check, Bender | None, Bender | None]] = [
    *((check, bender, None) for check in CONTRACT for bender in check.before),
    *((check, None, bender) for check in CONTRACT for bender in check.behind),
]


def _name(value: Check | Bender | None) -> str:
    return value.name if isinstance(value, Check) else NAMES[value] if value else ""


@pytest.fixture(scope="module")
def bent() -> Bent:
    return Bent()


@pytest.fixture(scope="module")
def between(upstream: ThreadedStandIn, bent: Bent) -> Generator[Line]:
    """The same with a proxy on either side of the gateway."""
    with line_to(upstream, bent) as line:
        yield line


@CHECKS
def test_it_is_kept(check: Check, straight: Line) -> None:
    check.holds(straight.reset())


@CHECKS
def test_proxies_that_bend_nothing_go_unnoticed(check: Check, between: Line, bent: Bent) -> None:
    assert not bent.bends
    check.holds(between.reset())


@pytest.mark.parametrize(("check", "before", "behind"), BENDINGS, ids=_name)
def test_a_bending_is_noticed(
    check: Check, before: Bender | None, behind: Bender | None, between: Line, bent: Bent
) -> None:
    bent.before, bent.behind = before or passes_on, behind or passes_on
    try:
        with pytest.raises(AssertionError):
            check.holds(between.reset())
    finally:
        bent.before = bent.behind = passes_on


def test_every_row_and_rule_is_there_and_broken_once() -> None:
    assert {row for check in CONTRACT for row in check.rows} == ROWS
    assert {rule for check in CONTRACT for rule in check.rules} == RULES
    assert [check.name for check in CONTRACT if not check.before + check.behind] == []
