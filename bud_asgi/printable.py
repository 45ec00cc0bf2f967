"""Text from outside, made fit for a log or an error message: one line, no control characters, of bounded length."""

from __future__ import annotations

import json

MAX_SHOWN = 1000
"""The usual bound of a text, in characters."""


def one_line(text: object, limit: int = MAX_SHOWN) -> str:
    """Return the text on one line: white space collapsed, other unprintable characters escaped, cut at `limit`.

    Unprintable are control characters, line and paragraph separators, and what changes the direction of text. Redact
    secrets first: one that is cut off cannot be found any more.
    """
    shown = str(text)[: limit * 8]  # white space is collapsed: most of it is enough
    return printable(" ".join(shown.split()))[:limit]


def printable(text: str) -> str:
    r"""Return the text with unprintable characters escaped as in JSON (`\u2028`), so that JSON stays JSON."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
