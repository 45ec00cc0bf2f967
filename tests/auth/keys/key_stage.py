"""A store that counts its calls and can fail, and a backend on it whose time is set by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from starlette.authentication import AuthenticationError

from bud_asgi.auth import ApiKey, ApiKeys, KeyTiming, MemoryKeyStore, Pending, hash_api_key, new_api_key
from bud_asgi.exchange import Principal

START = datetime(2026, 11, 30, tzinfo=UTC)


class CountingStore(MemoryKeyStore):
    """Counts lookups. `failure` is raised by each, and each waits for `gate`."""

    def __init__(self) -> None:
        super().__init__()
        self.finds = 0
        self.closed = 0
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.noted: asyncio.Event | None = None

    async def find(self, key_hash: str) -> ApiKey | None:
        self.finds += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await super().find(key_hash)

    async def note_used(self, used: Mapping[str, datetime]) -> None:
        await super().note_used(used)
        if self.noted is not None:
            self.noted.set()

    async def aclose(self) -> None:
        self.closed += 1


class Stage:
    """A backend over a store. `now` are the seconds since the start, on both clocks."""

    def __init__(self, timing: KeyTiming | None = None, pepper: str | None = None) -> None:
        self.now = 0.0
        self.store = CountingStore()
        self.keys = ApiKeys(
            store=self.store,
            pepper=pepper,
            timing=timing or KeyTiming(timeout=0.05),
            clock=lambda: 1000.0 + self.now,
            wall=lambda: START.timestamp() + self.now,
        )

    async def add(self, name: str, **options: object) -> str:
        """Add a key to the store behind the back of the backend, and return it."""
        key = new_api_key()
        await self.store.add(ApiKey(name=name, hash=hash_api_key(key), **options))  # pyright: ignore[reportArgumentType]
        return key

    async def ask(self, key: str) -> str:
        """The name of the key, or `refused`."""
        try:
            found = self.keys.check(key.encode())
            found = await found.wait() if isinstance(found, Pending) else found
        except AuthenticationError:
            return "refused"
        assert found is not None
        principal: Principal = found[1]
        return principal.id

    def is_known(self, key: str) -> bool:
        """Whether the key is accepted without a coroutine."""
        return isinstance(self.keys.check(key.encode()), tuple)


def later(seconds: float) -> datetime:
    """A time so many seconds after the start."""
    return START + timedelta(seconds=seconds)
