from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import anthropic
import pytest
from backends import BACKEND, NAME, OLDER

collect_ignore = [
    *([] if NAME == "anthropic" else ["test_on_anthropic.py", "test_limits.py"]),
    *(["test_newer_threads.py"] if OLDER or not BACKEND.threads else []),
    *(["test_newer_without_threads.py"] if OLDER or BACKEND.threads else []),
]


@pytest.fixture(scope="session")
def client() -> Iterator[anthropic.Anthropic]:
    """Without retries; `with_options` changes that and shares the connections."""
    with anthropic.Anthropic(
        base_url=os.environ["SUITE_URL"], api_key=os.environ["SUITE_KEY"], max_retries=0, timeout=20
    ) as one:
        yield one


@pytest.fixture(scope="session")
async def async_client() -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=os.environ["SUITE_URL"], api_key=os.environ["SUITE_KEY"], max_retries=0, timeout=20
    ) as one:
        yield one


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits less than half a second before it tries again, where nobody told it how long."""
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.01)
