"""Tests of key stores: every store of the package passes them, and so can a store of your own.

@pytest.mark.parametrize("check", KEY_STORE_CHECKS)
async def test_my_store(check):
    await check(MyKeyStore(an_empty_database))
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from bud_asgi.auth.keys.record import ApiKey, hash_api_key
from bud_asgi.auth.keys.store import UPDATABLE, DuplicateKey, EditableKeyStore
from bud_asgi.limit import Limit

_NOON = datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=UTC)
_HOUR = timedelta(hours=1)


def _hash(text: str) -> str:
    return hash_api_key(f"sk-bud-{text}")


FULL = ApiKey(
    name="Grüße, 'quoted'; --",
    hash=_hash("full"),
    owner="ada@example.com",
    team="ops",
    models=("claude-haiku-*", "claude-sonnet-5"),
    limits=(
        Limit("requests", 60),
        Limit("tokens", 1_000_000, 86400.0, models=("a",), mode="observe", cache_reads=True),
    ),
    metadata={"ticket": "OPS-1", "Ä": '"'},
    expires=_NOON + _HOUR,
    enabled=False,
    previous_hash=_hash("previous"),
    previous_until=_NOON,
    created=_NOON - _HOUR,
    last_used=_NOON,
)
"""A key that uses every field."""


async def a_key_comes_back_as_it_was_added(store: EditableKeyStore) -> None:
    """With every field, and with none but those that are required."""
    plain = ApiKey(name="plain", hash=_hash("plain"))
    for key in (FULL, plain):
        await store.add(key)
        assert await store.get(key.name) == key
        assert await store.find(key.hash) == key


async def an_unknown_key_is_not_found(store: EditableKeyStore) -> None:
    """By name or hash, and by text that only begins like one."""
    await store.add(FULL)
    assert await store.get("unknown") is None
    assert await store.get("") is None
    assert await store.find(_hash("unknown")) is None
    assert await store.find(FULL.hash[:-1]) is None
    assert await store.find("%") is None


async def a_key_is_found_by_the_hash_that_it_replaced(store: EditableKeyStore) -> None:
    """Whether that is still valid is for the caller to judge."""
    await store.add(FULL)
    assert await store.find(_hash("previous")) == FULL


async def names_and_hashes_are_unique(store: EditableKeyStore) -> None:
    """A second key of one is refused, and changes nothing."""
    await store.add(FULL)
    for other in (ApiKey(name=FULL.name, hash=_hash("other")), ApiKey(name="other", hash=FULL.hash)):
        try:
            await store.add(other)
        except DuplicateKey:
            continue
        raise AssertionError("a duplicate was added")
    assert await store.all() == [FULL]


async def all_keys_are_listed_by_name(store: EditableKeyStore) -> None:
    """In the order of their code points, whatever the order in which they were added."""
    assert list(await store.all()) == []
    for name in ("b", "a", "C"):
        await store.add(ApiKey(name=name, hash=_hash(name)))
    assert [key.name for key in await store.all()] == ["C", "a", "b"]


async def after_a_rotation_both_hashes_are_found(store: EditableKeyStore) -> None:
    """Only the last two: a third one is dropped."""
    await store.add(ApiKey(name="ci", hash=_hash("1")))
    assert await store.rotate("ci", _hash("2"), _NOON)
    assert await store.rotate("ci", _hash("3"), _NOON + _HOUR)
    found = await store.find(_hash("3"))
    assert found is not None
    assert (found.hash, found.previous_hash, found.previous_until) == (_hash("3"), _hash("2"), _NOON + _HOUR)
    assert await store.find(_hash("2")) == found
    assert await store.find(_hash("1")) is None


async def a_rotation_without_overlap_drops_the_hash(store: EditableKeyStore) -> None:
    """And leaves the other fields as they are."""
    await store.add(FULL)
    assert await store.rotate(FULL.name, _hash("new"), None)
    found = await store.get(FULL.name)
    assert found is not None
    assert (found.hash, found.previous_hash, found.previous_until) == (_hash("new"), None, None)
    assert (found.owner, found.limits, found.created, found.enabled) == (FULL.owner, FULL.limits, FULL.created, False)
    assert await store.find(FULL.hash) is None


async def an_update_sets_these_fields_and_no_others(store: EditableKeyStore) -> None:
    """One after the other, to the values of another key and back; the key is still found by its hashes."""
    plain = ApiKey(name="plain", hash=_hash("plain"))
    await store.add(FULL)
    for source in (plain, FULL):
        for field in sorted(UPDATABLE):
            before = await store.get(FULL.name)
            assert before is not None
            assert await store.update(FULL.name, {field: getattr(source, field)})
            assert await store.get(FULL.name) == replace(before, **{field: getattr(source, field)})
    assert await store.update(FULL.name, {"team": None, "models": ("a",)})
    assert await store.find(FULL.hash) == replace(FULL, team=None, models=("a",))


async def a_disabled_key_is_found_and_marked(store: EditableKeyStore) -> None:
    """It is not removed: the caller judges it."""
    await store.add(ApiKey(name="ci", hash=_hash("ci")))
    for enabled in (False, False, True):
        assert await store.update("ci", {"enabled": enabled})
        found = await store.find(_hash("ci"))
        assert found is not None
        assert found.enabled is enabled


async def a_deleted_key_is_gone(store: EditableKeyStore) -> None:
    """Its name can be used again."""
    await store.add(FULL)
    assert await store.delete(FULL.name)
    assert not await store.delete(FULL.name)
    assert await store.find(FULL.hash) is None
    await store.add(FULL)


async def changes_of_an_unknown_key_are_reported(store: EditableKeyStore) -> None:
    """And create none."""
    assert not await store.rotate("unknown", _hash("1"), None)
    assert not await store.update("unknown", {"enabled": False})
    assert not await store.delete("unknown")
    await store.note_used({"unknown": _NOON})
    await store.note_used({})
    assert list(await store.all()) == []


async def the_time_of_use_only_moves_forward(store: EditableKeyStore) -> None:
    """Processes write it late, and in any order."""
    for name in ("a", "b"):
        await store.add(ApiKey(name=name, hash=_hash(name)))
    for time, expected in ((_NOON, _NOON), (_NOON - _HOUR, _NOON), (_NOON + _HOUR, _NOON + _HOUR)):
        await store.note_used({"b": time, "a": time})
        assert [key.last_used for key in await store.all()] == [expected, expected]


async def changes_at_the_same_time_are_all_made(store: EditableKeyStore) -> None:
    """Of several keys of one name, one is added; of several rotations, the last two hashes are kept."""
    adding = [store.add(ApiKey(name="ci", hash=_hash(str(n)))) for n in range(5)]
    failures = [result for result in await asyncio.gather(*adding, return_exceptions=True) if result is not None]
    assert len(failures) == 4
    assert all(isinstance(failure, DuplicateKey) for failure in failures)
    assert all(await asyncio.gather(*(store.rotate("ci", _hash(f"r{n}"), _NOON) for n in range(5))))
    found = [key for n in range(5) if (key := await store.find(_hash(f"r{n}"))) is not None]
    assert len(found) == 2
    assert found[0] == found[1]


async def a_closed_store_opens_again(store: EditableKeyStore) -> None:
    """An event loop that ends closes it, and another one may go on."""
    await store.add(FULL)
    await store.aclose()
    await store.aclose()
    assert await store.find(FULL.hash) == FULL


KEY_STORE_CHECKS: Sequence[Callable[[EditableKeyStore], Awaitable[None]]] = (
    a_key_comes_back_as_it_was_added,
    an_unknown_key_is_not_found,
    a_key_is_found_by_the_hash_that_it_replaced,
    names_and_hashes_are_unique,
    all_keys_are_listed_by_name,
    after_a_rotation_both_hashes_are_found,
    a_rotation_without_overlap_drops_the_hash,
    an_update_sets_these_fields_and_no_others,
    a_disabled_key_is_found_and_marked,
    a_deleted_key_is_gone,
    changes_of_an_unknown_key_are_reported,
    the_time_of_use_only_moves_forward,
    changes_at_the_same_time_are_all_made,
    a_closed_store_opens_again,
)
"""Each is called with a store of its own that is empty, and raises `AssertionError`."""
