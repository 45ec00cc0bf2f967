"""Runs the suite with one SDK against one backend; by hand: `PYTHONPATH=tests python tests/sdk/sdk_run.py -k retry`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
from sdk_stage import BACKENDS, Stage, stage
from support.forked import ForkedProcess, fork_server

ROOT = Path(__file__).parents[2]
SUITE = Path(__file__).with_name("suite")
SDKS = {"current": Path(sys.executable), "0.125": ROOT / ".venv/sdk-0.125/bin/python"}
"""The Python that has it, by the SDK's name. `make` sets the older one's environment up."""

LONGEST = 100.0  # seconds
_MISLEADING = re.compile(r"ANTHROPIC_|PYTEST_|.*_proxy$", re.IGNORECASE)


class Case(msgspec.Struct, frozen=True):
    """One case of the suite and how it ended; `failure` is empty if it went well."""

    name: str
    failure: str


class Run(msgspec.Struct, frozen=True):
    """What a run brought: its cases, and all that it said."""

    status: int
    cases: list[Case]
    said: str


def run_suite(here: Stage, sdk: str, *arguments: str) -> Run:
    """Run it in a process of its own, which is ended when it takes too long.

    Raises `FileNotFoundError` without that SDK's environment.
    """
    python = SDKS[sdk]
    if not python.exists():
        raise FileNotFoundError(f"{python} is not there: `make {python.parents[1].relative_to(ROOT)}/ready` makes it")
    kept = {name: value for name, value in os.environ.items() if not _MISLEADING.match(name)}
    server = fork_server("anthropic", "pytest", python=(str(python),))  # the SDK's import takes most of the time
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-c", str(SUITE / "pytest.ini"), "-p", "pytest_asyncio.plugin", f"--junitxml={report}"]
        environment = {**kept, **here.environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HOME": folder}
        with ForkedProcess(server, "pytest", [*words, *arguments, str(SUITE)], environment, SUITE) as process:
            timer = threading.Timer(LONGEST, process.kill)
            timer.start()
            said = process.stdout.read() + process.stderr.read()
            timer.cancel()
            status = process.wait()
        return Run(status, _cases(report) if report.exists() else [], said)


def _cases(report: Path) -> list[Case]:
    return [
        Case(
            f"{case.get('classname')}::{case.get('name')}",
            "\n".join(f"{part.get('message')}" for part in case if part.tag in ("failure", "error", "skipped")),
        )
        for case in ET.parse(report).iter("testcase")
    ]


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sdk", choices=SDKS, default="current")
    options.add_argument("--backend", choices=BACKENDS, default="anthropic")
    chosen, rest = options.parse_known_args()
    with stage(chosen.backend) as here:
        ran = run_suite(here, chosen.sdk, *rest)
        print(ran.said)  # noqa: T201 - its report
    sys.exit(ran.status)
