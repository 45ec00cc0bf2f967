"""Serves an app as `bud-asgi serve` does. `BUD_ASGI_TEST_HTTP=httptools` runs the tests on uvicorn's own protocol."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

from starlette.types import ASGIApp

from bud_asgi.server import ConnectionFactory, ServerLimits
from bud_asgi.testing.server import serving as testing


def serving(app: ASGIApp, **options: Any) -> AbstractContextManager[str]:
    """Serve `app` in a thread; yields its base URL. `options` are those of `uvicorn.Config`."""
    http: Any = os.environ.get("BUD_ASGI_TEST_HTTP") or ConnectionFactory(ServerLimits())
    return testing.serving(app, **{"http": http, **options})
