"""Model names, and patterns of them."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The expression for a pattern in which `*` stands for any characters, and all else for itself."""
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern, or is met by its `*`."""
    return pattern in {"*", name} or ("*" in pattern and compile_pattern(pattern).fullmatch(name) is not None)


@lru_cache(maxsize=4096)
def matches_any(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a name is one of the patterns, or is met by one. Remembered, for callers ask for few names."""
    return any(matches(pattern, name) for pattern in patterns)
