"""Secrets by reference: `env:NAME` and `file:PATH`. The secret itself never stands in a file, nor in an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bud_asgi.config.problems import Problems
from bud_asgi.secret import Secret


class References:
    """Looks secrets up: in the given environment, and in files, whose relative paths start at `folder`."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self._folder = folder

    def path(self, name: str) -> Path:
        """The file that a path in the configuration names."""
        return self._folder / name

    def resolve(self, reference: str, path: str, problems: Problems) -> Secret | None:
        """The secret that a reference of the right form leads to; `None`, and a problem noted, where there is none."""
        kind, _, name = reference.partition(":")
        value = self._read_file(name, path, problems) if kind == "file" else self._environ.get(name, "")
        if value is None:
            return None
        if kind == "env" and not value:
            problems.add(path, f"the environment variable {name} is not set")
            return None
        return secret_of(value, path, f"what {reference} holds", problems)

    def _read_file(self, name: str, path: str, problems: Problems) -> str | None:
        """The text of a file, without the one line end that editors leave."""
        file = self.path(name)
        try:
            return file.read_bytes().decode().removesuffix("\n").removesuffix("\r")
        except OSError as error:
            problems.add(path, f"the file {file} can't be read: {error.strerror}")
        except UnicodeDecodeError:
            problems.add(path, f"the file {file} is not text")
        return None


def secret_of(value: str, path: str, where: str, problems: Problems) -> Secret | None:
    """A value as a secret; `None`, and a problem noted without showing it, if it can't be one."""
    try:
        return Secret(value)
    except ValueError as error:
        problems.add(path, f"{where} can't be used: {error}")
        return None
