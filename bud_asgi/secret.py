"""A secret value that is usable where it is needed and invisible where it is shown."""

from __future__ import annotations

import os
import re
from typing import Protocol

from bud_asgi.options import OptionError, mismatch

_VISIBLE = re.compile(r"[!-~]+")
_REQUIRED = "a secret must be visible ASCII without spaces or line breaks, and not empty"


class Secret:
    """A secret value. Its repr, str and errors never show it; two secrets are equal only if they are the same object.

    Raises `ValueError`, which does not show the value, if it is empty or contains anything but visible ASCII (a line
    break read from a file, for example).
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not isinstance(value, str) or not _VISIBLE.fullmatch(value):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(_REQUIRED)
        self._value = value

    @classmethod
    def from_env(cls, name: str) -> Secret:
        """Read the secret from an environment variable. Raises `ValueError`, naming the variable, if it is not set."""
        value = os.environ.get(name)
        if not value:
            raise ValueError(f"the environment variable {name} is not set")
        return cls(value)

    def reveal(self) -> str:
        """Return the value itself, to be sent and nothing else."""
        return self._value

    def redact(self, text: str) -> str:
        """Replace the secret in a text that goes to the log: an upstream may have echoed it."""
        return text.replace(self._value, "[secret]")

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        raise TypeError("a Secret cannot be pickled")


class HasSecretValue(Protocol):
    """A secret of another library that can be passed as an option: pydantic's `SecretStr`."""

    def get_secret_value(self) -> str:
        """Return the value itself."""
        ...


AnySecret = Secret | str | HasSecretValue
"""What options that are secrets accept."""


def secret_option(option: str, value: AnySecret | None) -> Secret | None:
    """Return the value of an option as a `Secret`. Raises `OptionError`, which does not show it."""
    if value is None or isinstance(value, Secret):
        return value
    reveal = getattr(value, "get_secret_value", None)
    text = reveal() if callable(reveal) else value
    if not isinstance(text, str):
        raise mismatch(option, "a string or a Secret", text, hide=True)
    try:
        return Secret(text)
    except ValueError as error:
        raise OptionError(option, str(error)) from None
