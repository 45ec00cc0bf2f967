"""All key stores of the package do the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from bud_asgi.auth.keys import KEY_STORE_CHECKS, EditableKeyStore


@pytest.mark.parametrize("check", KEY_STORE_CHECKS, ids=lambda check: check.__name__)
async def test_a_key_store(check: Callable[[EditableKeyStore], Awaitable[None]], key_store: EditableKeyStore) -> None:
    await check(key_store)
