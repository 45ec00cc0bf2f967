"""A credential in code: usable where it is needed, invisible where it is shown."""

from __future__ import annotations

import os
import re

_VISIBLE = re.compile(r"[!-~]+")


class Secret:
    """A secret value. Its repr, its str and its errors show nothing of it; equality is identity.

    Raises `ValueError` for a value that is empty or holds anything but visible ASCII (a line end from a file, say),
    without showing it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not _VISIBLE.fullmatch(value):
            raise ValueError("a secret must be visible ASCII without spaces or line ends, and not empty")
        self._value = value

    @classmethod
    def from_env(cls, name: str) -> Secret:
        """The secret in an environment variable. Raises `ValueError`, naming the variable, if it is not set."""
        value = os.environ.get(name)
        if not value:
            raise ValueError(f"the environment variable {name} is not set")
        return cls(value)

    def reveal(self) -> str:
        """The value itself, for the wire alone."""
        return self._value

    def redact(self, text: str) -> str:
        """A text for the log with the secret blotted out, should somebody have echoed it."""
        return text.replace(self._value, "[secret]")

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        raise TypeError("a secret is not to be pickled")
