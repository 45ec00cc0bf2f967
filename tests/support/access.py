"""What the access log of an app has recorded."""

from __future__ import annotations

from typing import Any

import pytest

from bud_asgi.telemetry.formatters import FIELDS


def access_records(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each request that was logged."""
    return [getattr(record, FIELDS) for record in caplog.records if record.name == "bud_asgi.access"]
