"""Lookups: what is remembered and for how long, one at a time, and what happens while the store is unavailable."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from starlette.authentication import AuthenticationError

from auth.keys.key_stage import START, CountingStore, Stage, later
from bud_asgi.auth import (
    ApiKeys,
    DuplicateKey,
    KeyStoreUnavailable,
    KeyTiming,
    Pending,
    UnknownKey,
    hash_api_key,
    new_api_key,
)
from bud_asgi.auth.keys.known import MAX_ACCEPTED, MAX_REFUSED, KnownKeys
from bud_asgi.auth.keys.record import ApiKey
from bud_asgi.options import OptionError


async def test_an_accepted_key_is_looked_up_once_in_ten_seconds() -> None:
    stage = Stage()
    key = await stage.add("ci")
    for now, finds in ((0.0, 1), (9.9, 1), (10.0, 2), (19.9, 2), (20.0, 3)):
        stage.now = now
        assert await stage.ask(key) == "ci"
        assert stage.store.finds == finds
        assert stage.is_known(key)


async def test_a_refused_key_is_looked_up_once_in_ten_seconds() -> None:
    stage = Stage()
    for now, finds in ((0.0, 1), (9.9, 1), (10.0, 2)):
        stage.now = now
        assert await stage.ask("sk-bud-unknown") == "refused"
        assert stage.store.finds == finds


@pytest.mark.parametrize("change", ["disable", "delete", "rotate"])
async def test_a_change_elsewhere_takes_effect_within_ten_seconds(change: str) -> None:
    stage = Stage()
    key = await stage.add("ci")
    assert await stage.ask(key) == "ci"
    await _change(stage.store, change)
    stage.now = 9.9
    assert await stage.ask(key) == "ci"
    stage.now = 10.0
    assert await stage.ask(key) == "refused"


async def _change(store: CountingStore, change: str) -> None:
    changes = {
        "disable": lambda: store.update("ci", {"enabled": False}),
        "delete": lambda: store.delete("ci"),
        "rotate": lambda: store.rotate("ci", hash_api_key("other"), None),
    }
    assert await changes[change]()


async def test_a_change_by_this_process_takes_effect_at_once() -> None:
    stage = Stage()
    admin = stage.keys.admin
    made = await admin.create("ci", team="ops", models=["claude-haiku-*"])
    key = made.key.reveal()
    assert await stage.ask(key) == "ci"
    await admin.disable("ci")
    assert await stage.ask(key) == "refused"
    await admin.enable("ci")
    assert await stage.ask(key) == "ci"
    changed = await admin.update("ci", team=None, expires=START + timedelta(seconds=1))
    assert (await admin.get("ci"), changed.team, changed.models) == (changed, None, ("claude-haiku-*",))
    stage.now = 1.0
    assert await stage.ask(key) == "refused"
    with pytest.raises(OptionError, match="expires: has already passed"):
        await admin.update("ci", expires=START)
    await admin.update("ci", expires=None)
    assert await stage.ask(key) == "ci"
    new = (await admin.rotate("ci")).key.reveal()
    assert [await stage.ask(key), await stage.ask(new)] == ["ci", "ci"]
    await admin.delete("ci")
    assert [await stage.ask(key), await stage.ask(new)] == ["refused", "refused"]


async def test_a_lookup_that_runs_during_a_change_is_made_again() -> None:
    stage = Stage(KeyTiming(timeout=10.0))
    key = await stage.add("ci")
    stage.store.gate = asyncio.Event()
    asking = asyncio.create_task(stage.ask(key))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert stage.store.finds == 1
    record = await stage.store.get("ci")
    assert record is not None
    await stage.keys.admin.disable("ci")
    await stage.store.update("ci", {"enabled": True})  # the answer on its way is of before the change
    stage.store.gate.set()
    assert await asking == "ci"
    assert stage.store.finds == 2


async def test_requests_at_the_same_time_share_one_lookup() -> None:
    stage = Stage()
    key = await stage.add("ci")
    asking = [stage.ask(one) for one in (key, "sk-bud-unknown") for _ in range(50)]
    assert await asyncio.gather(*asking) == ["ci"] * 50 + ["refused"] * 50
    assert stage.store.finds == 2


async def test_a_lookup_goes_on_when_a_request_is_cancelled() -> None:
    stage = Stage(KeyTiming(timeout=10.0))
    key = await stage.add("ci")
    stage.store.gate = asyncio.Event()
    first, second = asyncio.create_task(stage.ask(key)), asyncio.create_task(stage.ask(key))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    stage.store.gate.set()
    assert await second == "ci"
    assert stage.store.finds == 1


async def test_a_key_expires_at_its_time_even_if_it_is_remembered() -> None:
    stage = Stage()
    key = await stage.add("ci", expires=later(5.0))
    assert await stage.ask(key) == "ci"
    stage.now = 4.9
    assert stage.is_known(key)
    stage.now = 5.0
    assert await stage.ask(key) == "refused"


async def test_a_key_that_was_replaced_works_until_its_time() -> None:
    stage = Stage()
    key = await stage.add("ci")
    new = new_api_key()
    await stage.store.rotate("ci", hash_api_key(new), later(60.0))
    stage.now = 59.0
    assert [await stage.ask(key), await stage.ask(new)] == ["ci", "ci"]
    stage.now = 60.0
    assert [await stage.ask(key), await stage.ask(new)] == ["refused", "ci"]


async def test_all_refused_keys_cost_the_same_calls() -> None:
    mistyped = new_api_key()[:-1] + "?"
    counts: dict[str, list[int]] = {}
    for kind in ("unknown", "mistyped", "short", "disabled", "expired", "replaced"):
        stage = Stage()
        options = {"disabled": {"enabled": False}, "expired": {"expires": later(-1.0)}}
        key = {"unknown": new_api_key(), "mistyped": mistyped, "short": "sk-bud-"}.get(kind)
        key = key or await stage.add("ci", **options.get(kind, {}))
        if kind == "replaced":
            await stage.store.rotate("ci", hash_api_key(new_api_key()), later(-1.0))
        finds: list[int] = []
        for now in (0.0, 1.0, 10.0):
            stage.now = now
            assert await stage.ask(key) == "refused"
            finds.append(stage.store.finds)
        counts[kind] = finds
    assert set(map(tuple, counts.values())) == {(1, 1, 2)}, counts


FAILURES: dict[str, Exception | None] = {
    "unavailable": KeyStoreUnavailable("gone"),
    "an error of its own": ConnectionError("postgresql://user:CANARY@host"),
    "no answer in time": None,
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_without_the_store_known_keys_work_for_an_hour(
    failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    stage = Stage()
    key, other = await stage.add("ci"), await stage.add("other")
    assert await stage.ask(key) == "ci"
    assert await stage.keys.status() == "ready"
    stage.store.failure = failure
    if failure is None:
        stage.store.gate = asyncio.Event()
    for now in (10.0, 60.0, 3599.0):
        stage.now = now
        assert await stage.ask(key) == "ci"
        with pytest.raises(KeyStoreUnavailable) as raised:
            await stage.ask(other)
        assert (raised.value.status, raised.value.type) == (529, "overloaded_error")
        assert raised.value.headers == {"retry-after": "1"}
        assert await stage.keys.status() == "degraded"
    stage.now = 3600.0
    with pytest.raises(KeyStoreUnavailable):
        await stage.ask(key)
    assert await stage.keys.status() == "unavailable"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "CANARY" not in caplog.text
    await stage.keys.aclose()


async def test_the_store_is_called_again_after_a_pause_and_without_waiting_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "bud_asgi")
    stage = Stage()
    key = await stage.add("ci")
    stage.store.failure = KeyStoreUnavailable("gone")
    for now, finds in ((0.0, 1), (0.5, 1), (1.0, 2), (1.5, 2), (2.0, 3)):
        stage.now = now
        with pytest.raises(KeyStoreUnavailable):
            await stage.ask(key)
        await asyncio.sleep(0)
        assert stage.store.finds == finds
    stage.store.failure = None
    stage.now = 3.0
    with pytest.raises(KeyStoreUnavailable):
        await stage.ask(key)  # the call that finds out is not waited for
    await asyncio.sleep(0.01)
    assert await stage.ask(key) == "ci"
    assert await stage.keys.status() == "ready"
    assert "the key store works again after 3.0 s" in caplog.text


async def test_a_disabled_key_does_not_come_back_with_an_outage() -> None:
    stage = Stage()
    key = await stage.add("ci")
    assert await stage.ask(key) == "ci"
    await stage.keys.admin.disable("ci")
    stage.store.failure = KeyStoreUnavailable("gone")
    with pytest.raises(KeyStoreUnavailable):
        await stage.ask(key)


async def test_an_expired_key_is_refused_in_an_outage() -> None:
    stage = Stage()
    key = await stage.add("ci", expires=later(60.0))
    assert await stage.ask(key) == "ci"
    stage.store.failure = KeyStoreUnavailable("gone")
    stage.now = 59.0
    assert await stage.ask(key) == "ci"
    stage.now = 60.0
    with pytest.raises(KeyStoreUnavailable):
        await stage.ask(key)


async def test_readiness_calls_the_store_if_it_has_not_answered_lately() -> None:
    stage = Stage()
    for now, finds in ((0.0, 1), (9.9, 1), (10.0, 2), (11.0, 2)):
        stage.now = now
        assert await stage.keys.status() == "ready"
        assert stage.store.finds == finds


async def test_a_wrong_result_of_a_store_is_an_error_and_no_outage() -> None:
    class Wrong:
        async def find(self, key_hash: str) -> ApiKey | None:
            return "ci"  # pyright: ignore[reportReturnType]

    keys = ApiKeys(store=Wrong())
    pending = keys.check(new_api_key().encode())
    assert isinstance(pending, Pending)
    with pytest.raises(OptionError, match=r"the result of find\(\)"):
        await pending.wait()
    assert await keys.status() == "ready"


async def test_times_of_use_are_written_together_and_later() -> None:
    stage = Stage(KeyTiming(note_every=0.02))
    stage.store.noted = asyncio.Event()
    keys = [await stage.add(name) for name in ("a", "b")]
    for key in keys * 3:
        await stage.ask(key)
    assert [key.last_used for key in await stage.store.all()] == [None, None]
    await asyncio.wait_for(stage.store.noted.wait(), 30)
    assert [key.last_used for key in await stage.store.all()] == [later(0.0), later(0.0)]
    await stage.keys.aclose()


async def test_closing_writes_the_times_of_use_and_closes_the_store() -> None:
    stage = Stage()
    key = await stage.add("ci")
    assert await stage.ask(key) == "ci"
    stage.now = 5.0
    await stage.keys.aclose()
    record = await stage.store.get("ci")
    assert record is not None
    assert record.last_used == later(0.0)
    assert stage.store.closed == 1
    assert await stage.ask(key) == "ci"  # it opens again


async def test_a_pepper_is_part_of_the_hash() -> None:
    stage = Stage(pepper="a-pepper-of-the-operator")
    made = await stage.keys.admin.create("ci")
    assert made.record.hash == hash_api_key(made.key.reveal(), "a-pepper-of-the-operator")
    assert await stage.ask(made.key.reveal()) == "ci"
    assert await stage.ask(await stage.add("plain")) == "refused"  # write access to the store is not enough


async def test_the_errors_of_the_admin_name_the_key_unless_it_looks_like_one() -> None:
    stage, key = Stage(), new_api_key()
    admin = stage.keys.admin
    await admin.create("ci")
    with pytest.raises(DuplicateKey, match="'ci'"):
        await admin.create("ci")
    for call in (admin.get, admin.rotate, admin.disable, admin.enable, admin.delete):
        with pytest.raises(UnknownKey, match="'unknown'"):
            await call("unknown")
        with pytest.raises(UnknownKey) as raised:
            await call(key)
        assert key not in str(raised.value)


def test_only_keys_of_an_editable_store_can_be_managed() -> None:
    with pytest.raises(OptionError, match="store"):
        _ = ApiKeys({}).admin


def test_what_is_remembered_is_bounded_and_refused_keys_displace_no_others() -> None:
    known = KnownKeys(KeyTiming())
    record = ApiKey(name="ci", hash=hash_api_key("x"))
    digests = [number.to_bytes(32, "little") for number in range(1, MAX_REFUSED + 100)]
    known.accept(digests[0], record, 1e9, 0.0)
    for digest in digests[1:]:
        known.refuse(digest, 0.0)
    assert known.find(digests[0]) is not None
    assert not known.is_refused(digests[1], 1.0)
    assert known.is_refused(digests[-1], 1.0)
    assert (len(known._accepted), len(known._refused)) == (1, MAX_REFUSED)
    assert MAX_ACCEPTED > MAX_REFUSED


async def test_a_key_of_another_kind_is_left_to_the_next_backend() -> None:
    stage = Stage()
    assert stage.keys.check(b"eyJhbGciOiJSUzI1NiJ9.e30.c2ln") is None
    assert stage.keys.check(b"sk-ant-api03-of-the-caller") is None
    with pytest.raises(AuthenticationError):
        stage.keys.check(b"sk-bud-" + b"x" * 600)
    assert stage.store.finds == 0
