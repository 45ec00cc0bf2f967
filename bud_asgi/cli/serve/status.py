"""The status page of `serve`: below a path of the server, for keys of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from bud_asgi.app import MessagesApp
from bud_asgi.auth import ApiKeys, hash_api_key
from bud_asgi.config import ConfigError, Problem, reference
from bud_asgi.hosting import local_path
from bud_asgi.options import shown

DEFAULT_PATH = "/status"
SHORTEST_KEY = 16
"""Characters of the shortest key for the page: it can be guessed for as long as the server runs."""

_OPTION, _KEY_OPTION = "--status", "--status-key"
_PATH = re.compile(r"(?:/[\w.~-]+)+/?", re.ASCII)
_TAKEN = frozenset({"v1", "api", "healthz", "readyz"})


class WithStatusPage:
    """Serves a page below a path, and an app everywhere else."""

    def __init__(self, app: ASGIApp, page: ASGIApp, path: str) -> None:
        self._app, self._page, self._path = app, page, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            path = local_path(scope)
            if path == self._path or path.startswith(f"{self._path}/"):
                below = {**scope, "root_path": scope.get("root_path", "").rstrip("/") + self._path}
                await self._page(below, receive, send)
                return
        await self._app(scope, receive, send)


def with_status_page(messages: MessagesApp, path: str | None, keys: Sequence[str]) -> ASGIApp:
    """Put the page in front of an app; without a `path` it is the app itself. `keys` are references to secrets.

    Raises `ConfigError`.
    """
    if path is None:
        return messages
    page = messages.status_page(auth=ApiKeys(_hashes(keys)))
    return WithStatusPage(messages, page, path.rstrip("/"))


def check_status(path: str | None, keys: Sequence[str], workers: int) -> Iterator[Problem]:
    """Check the options, before anything is started. The keys are read later."""
    if path is None:
        if keys:
            yield Problem("", _KEY_OPTION, f"meaningless without {_OPTION}")
        return
    if not _PATH.fullmatch(path):
        yield Problem("", _OPTION, f"expected a path such as {_OPTION}={DEFAULT_PATH}, got {shown(path)}")
    elif path.split("/")[1] in _TAKEN:
        yield Problem("", _OPTION, f"{shown(path)} is a path of the Messages API or of a health check")
    if not keys:
        yield Problem("", _OPTION, f"needs a key of its own: add {_KEY_OPTION} env:NAME or {_KEY_OPTION} file:PATH")
    if workers > 1:
        yield Problem(
            "",
            _OPTION,
            "shows one process, so that it cannot be combined with --workers; --metrics-port has the figures of all",
        )


def _hashes(references: Sequence[str]) -> dict[str, str]:
    """The hashes of the keys, by a name for each. Raises `ConfigError`."""
    hashes: dict[str, str] = {}
    for text in references:
        key = reference(text, _KEY_OPTION, os.environ).reveal()
        if len(key) < SHORTEST_KEY:
            problem = f"the key is too short; expected at least {SHORTEST_KEY} characters"
            raise ConfigError([Problem("", _KEY_OPTION, problem)])
        hashes[hash_api_key(key)] = f"status {len(hashes) + 1}"
    return {name: hash_ for hash_, name in hashes.items()}
