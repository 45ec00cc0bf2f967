"""What all commands do with a configuration: find it, and report its problems."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from bud_asgi.auth import KeyStoreUnavailable
from bud_asgi.cli.terminal import echo_problem, echo_text
from bud_asgi.config import ConfigError, Settings, read_environment
from bud_asgi.config.environment import SOURCE

DEFAULT_FILE = "gateway.toml"
"""What `init` writes. Other commands read it only if it is named."""

EXIT_FAILED = 1
"""The exit status for a store that is away, an unknown key, or a request that would be refused."""

EXIT_WRONG = 2
"""The exit status for wrong arguments or an invalid configuration."""

EXIT_NOT_STARTED = 3
"""The exit status for a server that cannot listen."""

config_argument = click.argument("config", required=False, metavar="[GATEWAY.TOML]", type=click.Path(dir_okay=False))


def read_settings(config: str | None) -> Settings:
    """Read the file, or else what the environment describes. Raises `ConfigError`."""
    return read_environment(environ_with(config))


def environ_with(config: str | None) -> Mapping[str, str]:
    """The environment, with the file of the command line if there is one."""
    return {**os.environ, "BUD_ASGI_CONFIG": config} if config else os.environ


@contextmanager
def report_config_errors() -> Generator[None]:
    """Write each problem of the configuration to stderr and exit with status 2, or 1 for a key store that fails."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            echo_problem("error", problem)
        if error.problems[0].source == SOURCE and Path(DEFAULT_FILE).is_file():
            echo_text(f"({DEFAULT_FILE} is in this folder, and is read only if it is named)", err=True)
        sys.exit(EXIT_WRONG)
    except KeyStoreUnavailable as error:
        fail(f"the key store failed: {error.reason}")


def fail(problem: str, status: int = EXIT_FAILED) -> NoReturn:
    """Write a problem to stderr, and exit."""
    echo_problem("error", problem)
    sys.exit(status)
