"""Model names, and the patterns that match them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol import patterns
from bud_asgi.protocol.patterns import PatternIndex, compile_pattern, matches, matches_any

MATCHES: dict[str, tuple[str, str, bool]] = {
    "the name itself": ("claude-a", "claude-a", True),
    "everything": ("*", "anything\nat all é", True),
    "the empty name": ("*", "", True),
    "a newline within": ("c*a", "c\n\na", True),
    "a beginning": ("claude-*", "claude-a", True),
    "an end": ("*-a", "claude-a", True),
    "a middle": ("*ud*", "claude-a", True),
    "parts that may not overlap": ("ab*ba", "aba", False),
    "a middle that may not overlap the end": ("a*bc*c", "abc", False),
    "a middle before an end like it": ("a*bc*bc", "abcbc", True),
    "both ends": ("c*a", "claude-a", True),
    "a star for no characters": ("claude-a*", "claude-a", True),
    "stars in a row": ("c**a", "claude-a", True),
    "another name": ("claude-a", "claude-b", False),
    "a prefix without a star": ("claude", "claude-a", False),
    "a suffix without a star": ("a", "claude-a", False),
    "a trailing newline": ("claude-a", "claude-a\n", False),
    "a trailing newline after a pattern": ("c*a", "claude-a\n", False),
    "upper case": ("Claude-*", "claude-a", False),
    "a dot matches only a dot": ("claude.*", "claude-a", False),
    "special characters are literal": ("[a](b)+?|\\d{1}^$*", "[a](b)+?|\\d{1}^$ and more", True),
    "special characters match nothing else": ("[a-z]*", "claude-a", False),
    "a star in the name is a plain character": ("claude-a", "claude-*", False),
    "an empty pattern and an empty name": ("", "", True),
    "an empty pattern and a name": ("", "a", False),
}


@pytest.mark.parametrize(("pattern", "name", "expected"), MATCHES.values(), ids=MATCHES.keys())
def test_a_pattern_matches_a_name_or_not(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected
    assert matches_any((pattern,), name) is expected


def by_hand(text: str, name: str) -> bool:
    """Whether a pattern matches a name, by trying every length for a star: the naive reference."""
    if not text:
        return not name
    if text[0] == "*":
        return any(by_hand(text[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and name[0] == text[0] and by_hand(text[1:], name[1:])


_letters = "ab.*[\\"


@pytest.mark.torture
@examples(50)
@given(text=st.text(_letters, max_size=6), name=st.text(_letters + "\n", max_size=6))
def test_a_pattern_matches_what_the_naive_reference_matches(text: str, name: str) -> None:
    assert matches(text, name) is by_hand(text, name)
    assert compile_pattern(text).matches(name) is by_hand(text, name)


_texts = st.text("ab*", max_size=4)


@pytest.mark.torture
@examples(50)
@given(texts=st.lists(_texts, max_size=6), name=st.text("ab", max_size=5))
def test_the_first_of_many_patterns_is_found(texts: list[str], name: str) -> None:
    expected = next((position for position, text in enumerate(texts) if by_hand(text, name)), None)
    assert PatternIndex(texts).first(name) == expected


@pytest.mark.parametrize(
    "pattern", ["claude-*-*-*-*-preview", "*-*-*-*-*-*-*-*x", "*a*a*a*a*a*a*b", "-" * 100 + "*" * 100 + "x"]
)
def test_a_name_made_to_backtrack_is_matched_in_linear_time(pattern: str) -> None:
    """Generous: a match takes some microseconds; with backtracking, each star multiplies the time by the length."""
    names = ["claude" + "-" * 250, "-" * 256, "a" * 256]
    began = time.process_time()
    assert not any(matches(pattern, name) for name in names * 100)
    assert time.process_time() - began < 1.0


def test_thousands_of_patterns_are_looked_up_without_trying_each() -> None:
    """Generous: a lookup takes a microsecond or two."""
    index = PatternIndex([f"team-{number}-*" for number in range(5_000)])
    began = time.process_time()
    assert [index.first(f"team-{number}-x") for number in range(5_000)] == list(range(5_000))
    assert time.process_time() - began < 1.0


def test_what_is_remembered_of_names_is_bounded() -> None:
    """Clients choose names: long ones are not remembered."""
    index = PatternIndex(["claude-*"])
    before = patterns._matches_any.cache_info().misses
    for number in range(100):
        name = f"claude-{number}-{'x' * 200}"
        assert matches_any(("claude-*",), name)
        assert not matches_any(("claude",), name)
        assert index.first(name) == 0
    assert patterns._matches_any.cache_info().misses == before
    assert patterns._matches_any.cache_info().maxsize == 4096
    assert len(index._found) == 0
