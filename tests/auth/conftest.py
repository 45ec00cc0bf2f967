"""What several tests of authentication use."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from support.issuer import LocalIssuer, local_issuer


@pytest.fixture
async def issuer() -> AsyncGenerator[LocalIssuer]:
    """An issuer that is served for the time of a test."""
    async with local_issuer() as one:
        yield one
