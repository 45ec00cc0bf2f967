"""The text of a key and its checksum, its hash, and the record that is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta, timezone
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.auth import ApiKey, ApiKeys, hash_api_key, is_api_key, new_api_key
from bud_asgi.exchange import Principal
from bud_asgi.options import OptionError

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
NOW = NOON.timestamp()
HASH, OTHER = hash_api_key("sk-bud-1"), hash_api_key("sk-bud-2")
EASTERN = timezone(timedelta(hours=2))
PEPPER = "the-pepper-CANARY"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def key(**options: Any) -> ApiKey:
    return ApiKey(name="ci", hash=HASH, **options)


def test_a_new_key_has_its_form_and_checksum() -> None:
    keys = {new_api_key() for _ in range(1000)}
    assert len(keys) == 1000
    for one in keys:
        assert re.fullmatch(r"sk-bud-[A-Za-z0-9_-]{48}", one)
        assert is_api_key(one)


@given(st.data())
@examples(50, 2_000)
def test_one_wrong_or_swapped_character_is_always_found(data: st.DataObject) -> None:
    """A CRC of 32 bits finds every error within 32 bits in a row; a character has six."""
    text = new_api_key()
    place = data.draw(st.integers(7, len(text) - 2))
    wrong = text[:place] + data.draw(st.sampled_from(ALPHABET)) + text[place + 1 :]
    assert is_api_key(wrong) == (wrong == text)
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    assert is_api_key(swapped) == (swapped == text)


@given(st.text() | st.from_regex(r"sk-bud-[A-Za-z0-9_-]{40,50}", fullmatch=True))
@examples(50, 2_000)
def test_any_other_text_is_no_key(text: str) -> None:
    assert not is_api_key(text)  # by chance once in four thousand million


def test_what_is_copied_incompletely_or_in_other_letters_is_no_key() -> None:
    text = new_api_key()
    changed = [
        text[:-1],
        text[1:],
        text + "A",
        text.upper(),
        text.lower(),
        f" {text}",
        f"{text}\n",
        "sk-ant" + text[6:],
    ]
    assert not any(map(is_api_key, changed))


def test_a_hash_is_that_of_the_standard_functions() -> None:
    digest = hashlib.sha256(b"sk-bud-1").digest()
    assert hash_api_key("sk-bud-1") == f"sha256:{digest.hex()}"
    peppered = hmac.new(PEPPER.encode(), digest, "sha256").hexdigest()
    assert hash_api_key("sk-bud-1", PEPPER) == f"hmac-sha256:{peppered}"


VALID: dict[str, tuple[ApiKey, str, float]] = {
    "for ever": (key(), HASH, inf),
    "another key": (key(), OTHER, 0.0),
    "until it expires": (key(expires=NOON + timedelta(seconds=5)), HASH, 5.0),
    "expired": (key(expires=NOON), HASH, 0.0),
    "disabled": (key(enabled=False), HASH, 0.0),
    "the previous one": (key(previous_hash=OTHER, previous_until=NOON + timedelta(seconds=9)), OTHER, 9.0),
    "the previous one, later": (key(previous_hash=OTHER, previous_until=NOON), OTHER, 0.0),
    "the one after it": (key(previous_hash=OTHER, previous_until=NOON), HASH, inf),
    "the previous one of a key that expires first": (
        key(previous_hash=OTHER, previous_until=NOON + timedelta(days=9), expires=NOON + timedelta(seconds=3)),
        OTHER,
        3.0,
    ),
    "the previous one of a disabled key": (
        key(enabled=False, previous_hash=OTHER, previous_until=NOON + timedelta(days=9)),
        OTHER,
        0.0,
    ),
    "in another time zone": (
        key(expires=datetime(2026, 11, 30, 14, 1, tzinfo=timezone(timedelta(hours=2)))),
        HASH,
        60.0,
    ),
}


@pytest.mark.parametrize(("record", "key_hash", "seconds"), VALID.values(), ids=VALID.keys())
def test_how_long_a_key_is_valid(record: ApiKey, key_hash: str, seconds: float) -> None:
    assert record.valid_for(key_hash, NOW) == seconds
    listed = ApiKeys([record], wall=lambda: NOW)
    text = b"sk-bud-1" if key_hash == HASH else b"sk-bud-2"
    assert _accepts(listed, text) == (seconds > 0.0)


def _accepts(keys: ApiKeys, credential: bytes) -> bool:
    try:
        return isinstance(keys.check(credential), tuple)
    except Exception:  # noqa: BLE001 - refused
        return False


def test_owner_and_metadata_reach_the_principal() -> None:
    record = key(owner="ada", team="ops", metadata={"ticket": "1"})
    assert record.principal == Principal(id="ci", team="ops", metadata={"ticket": "1", "owner": "ada"})


def test_a_record_does_not_show_its_hashes_or_metadata() -> None:
    shown = repr(key(previous_hash=OTHER, previous_until=NOON, metadata={"secret": "CANARY"}))
    assert not any(text in shown for text in (HASH, OTHER, "CANARY", HASH[7:15]))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a time without a zone": ({"expires": datetime(2026, 1, 1)}, "expires: expected a time with an offset"),  # noqa: DTZ001
    "a time as text": ({"expires": "2026-01-01"}, "expires: expected a time with an offset"),
    "a previous hash without a time": ({"previous_hash": OTHER}, "previous_until: missing"),
    "a time without a previous hash": ({"previous_until": NOON}, "previous_hash: missing"),
    "a key in place of its hash": (
        {"previous_hash": "sk-bud-CANARY", "previous_until": NOON},
        "previous_hash: expected",
    ),
    "metadata that is not a table": ({"metadata": [("a", "b")]}, "metadata: expected a mapping"),
    "metadata that is no text": ({"metadata": {"a": 1}}, "metadata: expected names with strings"),
    "an empty owner": ({"owner": ""}, "owner: expected a string that is not empty"),
    "enabled by number": ({"enabled": 1}, "enabled: expected true or false"),
}


@pytest.mark.parametrize(("options", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_is_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError) as raised:
        key(**options)
    assert str(raised.value).startswith(problem)
    assert "CANARY" not in str(raised.value)


def test_a_key_with_a_pepper_needs_it() -> None:
    record = ApiKey(name="ci", hash=hash_api_key("any text", PEPPER))
    keys = ApiKeys([record, ApiKey(name="plain", hash=hash_api_key("other text"))], pepper=PEPPER)
    assert _accepts(keys, b"any text")
    assert _accepts(keys, b"other text")
    assert not _accepts(keys, b"text")
    with pytest.raises(OptionError) as raised:
        ApiKeys([record])
    assert str(raised.value).startswith(r"keys[0].hash: was made with a pepper")
    assert PEPPER not in str(raised.value)


def test_no_hash_occurs_twice_as_a_previous_one_either() -> None:
    other = ApiKey(name="other", hash=hash_api_key("x"), previous_hash=HASH, previous_until=NOON)
    with pytest.raises(OptionError, match=r"keys\[1\].previous_hash"):
        ApiKeys([key(), other])
