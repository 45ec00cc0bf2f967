"""Model names, and the patterns that meet them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud_asgi.protocol.patterns import matches
from protocol.counts import examples

MET: dict[str, tuple[str, str, bool]] = {
    "the name itself": ("claude-a", "claude-a", True),
    "all": ("*", "anything\nat all é", True),
    "all, and nothing": ("*", "", True),
    "a line end within": ("c*a", "c\n\na", True),
    "a beginning": ("claude-*", "claude-a", True),
    "an end": ("*-a", "claude-a", True),
    "a middle": ("*ud*", "claude-a", True),
    "both ends": ("c*a", "claude-a", True),
    "a star for nothing": ("claude-a*", "claude-a", True),
    "stars in a row": ("c**a", "claude-a", True),
    "another name": ("claude-a", "claude-b", False),
    "the beginning alone": ("claude", "claude-a", False),
    "the end alone": ("a", "claude-a", False),
    "a line end behind it": ("claude-a", "claude-a\n", False),
    "a line end behind a pattern": ("c*a", "claude-a\n", False),
    "capitals": ("Claude-*", "claude-a", False),
    "a point is a point": ("claude.*", "claude-a", False),
    "special letters stand for themselves": ("[a](b)+?|\\d{1}^$*", "[a](b)+?|\\d{1}^$ and more", True),
    "special letters stand for nothing else": ("[a-z]*", "claude-a", False),
    "a star in the name is a letter": ("claude-a", "claude-*", False),
    "nothing meets nothing": ("", "", True),
    "nothing meets no name": ("", "a", False),
}


@pytest.mark.parametrize(("pattern", "name", "met"), MET.values(), ids=MET.keys())
def test_a_pattern_meets_a_name_or_not(pattern: str, name: str, met: bool) -> None:
    assert matches(pattern, name) is met


def by_hand(text: str, name: str) -> bool:
    """Whether a pattern meets a name, letter by letter."""
    if not text:
        return not name
    if text[0] == "*":
        return any(by_hand(text[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and name[0] == text[0] and by_hand(text[1:], name[1:])


_letters = "ab.*[\\"


@pytest.mark.torture
@examples(400)
@given(text=st.text(_letters, max_size=6), name=st.text(_letters + "\n", max_size=6))
def test_a_pattern_meets_what_it_meets_letter_by_letter(text: str, name: str) -> None:
    assert matches(text, name) is by_hand(text, name)
