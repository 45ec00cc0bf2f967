"""State that an upstream holds for one account, named in a request.

Vendor pages "Message threads", "Files API", "Code execution tool", "Extended thinking", "Compaction".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from bud_asgi.protocol.request import MessagesRequest

BoundState = Literal["thread", "container", "file", "skill", "fallback_credit", "thinking", "compaction", "encrypted"]
"""A kind of state.

`thread`, `container`, `file`, `skill` and `fallback_credit` are hard: another account answers with an error. Blocks of
`thinking`, `compaction` and `encrypted` results are dropped or refused there only under some conditions.
"""

HARD: frozenset[BoundState] = frozenset(("thread", "container", "file", "skill", "fallback_credit"))
"""The kinds that only the account which made them can serve."""

_TOP_LEVEL: Mapping[BoundState, tuple[str, re.Pattern[bytes]]] = {
    "thread": ("thread", re.compile(rb'"previous_message_id"\s*:\s*"')),
    "container": ("container", re.compile(rb'\A"|"id"\s*:\s*"')),
    "skill": ("container", re.compile(rb'"type"\s*:\s*"custom"')),
    "fallback_credit": ("fallback_credit_token", re.compile(rb'\A["{]')),
}

# A quote inside a JSON string is escaped: what is matched here is a whole key or value, never somebody's words.
_NESTED: Mapping[BoundState, re.Pattern[bytes]] = {
    "file": re.compile(rb'"file_id"\s*:\s*"'),
    "thinking": re.compile(rb'"type"\s*:\s*"(?:redacted_)?thinking"'),
    "compaction": re.compile(rb'"type"\s*:\s*"compaction"'),
    "encrypted": re.compile(rb'"(?:encrypted_content|encrypted_stdout)"\s*:\s*"'),
}

# No serializer escapes letters of ASCII; whoever does may have written any of the above. No backslash stands before it.
_ESCAPED_LETTER = re.compile(rb"\\u00(?<!\\\\u00)(?:[4-6]|7[^fF])")


def bound_state(request: MessagesRequest) -> frozenset[BoundState]:
    """The kinds of state that a request names. Searches the body, for some 2 ms a megabyte: ask only if it matters.

    It may name a kind too many, where the input of a tool says the same, or letters are escaped; never one too few.
    """
    found: set[BoundState] = set()
    for kind, (field, pattern) in _TOP_LEVEL.items():
        value = request.value(field)
        if value is not None and (pattern.search(value) or _ESCAPED_LETTER.search(value)):
            found.add(kind)
    start, end = request.spans.get("messages", (0, 0))
    escaped = _ESCAPED_LETTER.search(request.body, start, end) is not None
    found.update(kind for kind, pattern in _NESTED.items() if escaped or pattern.search(request.body, start, end))
    return frozenset(found)
