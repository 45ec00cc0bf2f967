"""Configuration by a TOML file or by environment variables, for the same objects that code would make."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from bud_asgi.app import MessagesApp
from bud_asgi.config.divide import divide_limits
from bud_asgi.config.durations import in_seconds
from bud_asgi.config.environment import read_environment, read_environment_keys
from bud_asgi.config.file import read_file
from bud_asgi.config.keys import KeySettings
from bud_asgi.config.permissions import permission_warnings
from bud_asgi.config.problems import ConfigError, Problem, Problems
from bud_asgi.config.reading import reference
from bud_asgi.config.reload import reload_settings, settings_of
from bud_asgi.config.settings import Settings
from bud_asgi.limit import Dimension

__all__ = [
    "ConfigError",
    "KeySettings",
    "Problem",
    "Problems",
    "Settings",
    "divide_limits",
    "from_env",
    "from_file",
    "in_seconds",
    "log_warnings",
    "permission_warnings",
    "read_environment",
    "read_environment_keys",
    "read_file",
    "reference",
    "reload_file",
    "reload_settings",
]

_log = logging.getLogger("bud_asgi")


def from_file(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    dimensions: Mapping[str, Dimension] | None = None,
) -> MessagesApp:
    """Make the app that a TOML file describes; `docs/configuration.md` lists every key.

    Secrets are looked up in `environ` (by default the process environment) and in files. With
    `dimensions={"tenant": tenant_of}` a limit in the file may have `per = "tenant"`: the function gets the `Exchange`,
    and returns the name of the bucket or `None`. Raises `ConfigError` with every problem of the file, and `OptionError`
    for invalid dimensions.
    """
    settings = read_file(path, environ=environ, dimensions=dimensions)
    log_warnings(settings)
    return settings.app()


def reload_file(messages: MessagesApp, environ: Mapping[str, str] | None = None) -> Sequence[str]:
    """Read the file of an app that `from_file` has made again, and have the app serve it (`MessagesApp.reload`).

    References are looked up again, in `environ` as by `from_file`, and in files. Returns the changes in words, without
    secrets; an empty list if nothing has changed. Raises `ConfigError` with every problem, and `TypeError` for an app
    that was not made from a file; then nothing has changed.
    """
    former = settings_of(messages)
    settings = read_file(former.source, environ=environ, dimensions=former.dimensions)
    log_warnings(settings)
    return reload_settings(messages, settings)


def from_env(environ: Mapping[str, str] | None = None) -> MessagesApp:
    """Make the app that the environment describes: `uvicorn --factory bud_asgi:from_env` serves it.

    `BUD_ASGI_CONFIG` is the path of a file, which then decides; without it, `ANTHROPIC_API_KEY` and `BUD_ASGI_KEYS` are
    enough. Raises `ConfigError` with every problem.
    """
    settings = read_environment(environ)
    log_warnings(settings)
    return settings.app()


def log_warnings(settings: Settings) -> None:
    """Write the warnings about the permissions of the files to the log."""
    for warning in permission_warnings(settings.source):
        _log.warning("%s", warning)
