"""Which spellings of a key a reader of JSON may take for the same key.

Readers differ: Go and .NET ignore case, some also for U+017F (s), U+212A (k) and U+0131 (i); Go's second JSON package
can ignore `_` and `-`; protobuf reads `maxTokens` as `max_tokens`.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_FOLDED = 128
"""The longest key, in characters, that is compared: longer ones resemble no key that is known."""

_IGNORED = re.compile(r"[^0-9a-z]+")


def folded(key: str) -> str:
    """The letters and digits of a key, without case, width and accents: equal for keys that may be taken for one.

    What follows a NUL does not count, because readers in C stop there.
    """
    text = key.partition("\0")[0]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).upper()
    return _IGNORED.sub("", text.casefold())
