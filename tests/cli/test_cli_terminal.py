"""Output on a terminal: wrapped below 80 columns, with progress; and plain in a pipe."""

from __future__ import annotations

import os
import pty
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.cli import terminal
from bud_asgi.cli.tables import table
from bud_asgi.cli.terminal import Progress, columns, echo_problem, echo_text

PROBLEM = (
    "gateway.toml:212: routes[17].to[1]: unknown provider at /a/path/that/must/stay/whole/so/that/it/can/be/copied/from"
    " here, with enough words behind it for a third line"
)


@contextmanager
def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """Make stderr a terminal; yield the descriptor that reads what appears there."""
    ours, its = pty.openpty()
    with os.fdopen(its, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        patched.setenv("COLUMNS", "100")
        yield ours
    os.close(ours)


def test_a_problem_is_wrapped_on_a_terminal_and_its_paths_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_as_stderr(monkeypatch) as shown:
        echo_problem("error", PROBLEM)
        lines = os.read(shown, 4096).decode().splitlines()
    assert lines[0].startswith("\x1b[31merror:\x1b[0m gateway.toml:212: ")
    assert any("/a/path/that/must/stay/whole/so/that/it/can/be/copied/from" in line for line in lines)
    assert max(len(line) for line in lines[1:]) < 80
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == f"\x1b[31merror:\x1b[0m {PROBLEM}"


def test_a_problem_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    echo_problem("warning", PROBLEM)
    echo_text(PROBLEM, err=True)
    assert capsys.readouterr().err == f"warning: {PROBLEM}\n{PROBLEM}\n"
    assert columns(sys.stderr) is None


def test_progress_appears_after_a_while_and_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "FIRST_SHOWN", 0.01)
    with terminal_as_stderr(monkeypatch) as shown:
        with Progress("calling 3 targets") as progress:
            seen = os.read(shown, 4096).decode()
            progress.end()
        rest = seen + os.read(shown, 4096).decode()
    assert seen.startswith("\rcalling 3 targets (1 s)")
    assert rest.rsplit("\r", 2)[1:] == [" " * (len(rest.rsplit("\r", 2)[1])), ""]


def test_progress_does_not_appear_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "FIRST_SHOWN", 0.001)
    before = threading.active_count()
    with Progress("calling 3 targets"):
        assert threading.active_count() == before
        time.sleep(0.01)
    assert capsys.readouterr().err == ""


_cells = st.text("ab -", max_size=30).map(lambda text: " ".join(text.split()) or "-")


@given(st.lists(st.tuples(_cells, _cells, _cells), max_size=4), st.integers(40, 120))
@examples(50)
def test_a_table_fits_the_terminal_and_loses_nothing(rows: list[tuple[str, str, str]], width: int) -> None:
    head = ("MODEL", "PROVIDER", "ADDRESS")
    text = table(head, rows, width)
    assert max(map(len, text.splitlines())) < width
    words = sorted("".join(cell for row in (head, *rows) for cell in row).replace(" ", ""))
    assert sorted("".join(text.split())) == words
    assert table(head, rows) == table(head, rows, 1000)


def test_a_url_stays_whole_on_a_narrow_terminal() -> None:
    url = "https://bedrock-runtime.eu-central-1.amazonaws.com"
    rows = [("claude-*", "amazon", url), ("", "relay", "http://relay")]
    assert table(("MODEL", "PROVIDER", "ADDRESS"), rows, 60).splitlines() == [
        "MODEL     PROVIDER",
        "    ADDRESS",
        "claude-*  amazon",
        f"    {url}",
        "          relay",
        "    http://relay",
    ]
