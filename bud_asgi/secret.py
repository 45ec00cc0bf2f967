"""A secret value that is usable where it is needed and invisible where it is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from typing import Protocol

from bud_asgi.options import OptionError, mismatch

_VISIBLE = re.compile(r"[!-~]+")
_REQUIRED = "a secret must be visible ASCII without spaces or line breaks, and not empty"

MIN_REDACTED = 16
"""Characters of the shortest secret that is looked for in a text; shorter ones are words that a text may contain."""

_PLACEHOLDER = re.compile(
    r"(?:(?:sk|api|key|token|secret|no|not|none|null|is|a|required|require|needed|need|necessary|used|unused|dummy|fake"
    r"|empty|test|testing|example|placeholder|local|localhost|ollama|lm|studio|vllm|your|my|the|here|x|0)[-_.]?)+",
    re.IGNORECASE,
)
"""Keys for servers that check none, such as `sk-no-key-required`."""

_ESCAPE = re.compile(r"\\(?:u00|x)([2-7][0-9A-Fa-f])|%([2-7][0-9A-Fa-f])")
_MAX_NESTED_ESCAPES = 8


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
        """Replace the secret in a text of an upstream's, which may have echoed it; see `redact`."""
        if not MIN_REDACTED <= len(self._value) <= len(text):  # escapes make it longer, never shorter
            return text
        return redact(text, (self._value,))

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        raise TypeError("a Secret cannot be pickled")


def redact(text: str, secrets: Collection[str]) -> str:
    r"""Replace secrets in a text, however it spells them: escaped for JSON or a URL, once or several times.

    Where a secret is escaped, the returned text is unescaped as well. Secrets that are shorter than `MIN_REDACTED`, or
    that only consist of words such as "no-key-required", are not looked for.
    """
    if "\\" not in text and "%" not in text and not any(map(text.__contains__, secrets)):
        return text
    present = [secret for secret in secrets if len(secret) >= MIN_REDACTED]
    shown = _replace(text, present)
    if "\\" in shown or "%" in shown:
        plain = _unescape(shown)
        unescaped = _replace(plain, [_unescape(secret) for secret in present])
        return shown if unescaped == plain else unescaped
    return shown


def _replace(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if secret in text and not _PLACEHOLDER.fullmatch(secret):
            text = text.replace(secret, "[secret]")
    return text


def _unescape(text: str) -> str:
    """Return the text without the escapes of JSON and URLs. Ambiguous ones are unescaped too, backslashes dropped."""
    for _ in range(_MAX_NESTED_ESCAPES):
        unescaped = _ESCAPE.sub(lambda escape: chr(int(escape[1] or escape[2], 16)), text)
        if unescaped == text:
            break
        text = unescaped
    return text.replace("\\", "")


class HasSecretValue(Protocol):
    """A secret of another library that can be passed as an option: pydantic's `SecretStr`."""

    def get_secret_value(self) -> str:
        """Return the value itself."""
        ...


AnySecret = Secret | str | HasSecretValue
"""What options that are secrets accept."""


def revealed(value: object) -> object:
    """The text of a secret, this library's or another's; any other value as it is, for the caller to check."""
    if isinstance(value, Secret):
        return value.reveal()
    reveal = getattr(value, "get_secret_value", None)
    return reveal() if callable(reveal) else value


def secret_option(option: str, value: AnySecret | None) -> Secret | None:
    """Return the value of an option as a `Secret`. Raises `OptionError`, which does not show it."""
    if value is None or isinstance(value, Secret):
        return value
    text = revealed(value)
    if not isinstance(text, str):
        raise mismatch(option, "a string or a Secret", text, hide=True)
    try:
        return Secret(text)
    except ValueError as error:
        raise OptionError(option, str(error)) from None
