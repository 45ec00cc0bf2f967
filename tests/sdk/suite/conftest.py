from __future__ import annotations

import gc

gc.disable()  # until all is imported and collected: hardly any of it is garbage

import os  # noqa: E402
from collections.abc import AsyncIterator, Iterator  # noqa: E402

import anthropic  # noqa: E402
import pytest  # noqa: E402
from backends import BACKEND, NAME, OLDER  # noqa: E402

collect_ignore = [
    *([] if NAME == "anthropic" else ["test_on_anthropic.py", "test_limits.py"]),
    *(["test_newer_threads.py"] if OLDER or not BACKEND.threads else []),
    *(["test_newer_without_threads.py"] if OLDER or BACKEND.threads else []),
]


def pytest_collection_finish() -> None:
    """The SDK's thousands of classes stay until the end; without this, every full collection walks them."""
    gc.enable()
    gc.collect()
    gc.freeze()


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
