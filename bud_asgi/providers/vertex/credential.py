"""The credential for Google Cloud: access tokens that google-auth finds and fetches, in a thread because it blocks.

Wire facts: Google Cloud's "How Application Default Credentials works", "Set the quota project".
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from bud_asgi.extras import require
from bud_asgi.http import HeaderBlock, HttpRequest, header_block
from bud_asgi.options import OptionError, check_name, check_text, check_type, mismatch, path_shown
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers.debug_logs import without_debug_logs
from bud_asgi.providers.refresher import Expiring, Refresher, RefreshStatus, RefreshTiming
from bud_asgi.providers.threads import start_thread
from bud_asgi.secret import Secret, redact

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from bud_asgi.providers.vertex.google_auth import GoogleCredentials

PROJECT = re.compile(r"[!-~]{1,200}")
PROJECT_EXPECTED = "the id of a Google Cloud project"
_PATH = re.compile(r"(?!env:|file:|\{)[^\0-\x1f]{1,4096}")
_LOGGING = ("google", "urllib3", "requests")
THREAD_NAME = "bud_asgi Google token"


class AccessToken(msgspec.Struct, frozen=True):
    """A token, and the headers that it is sent in; the first is `authorization`."""

    token: str
    headers: HeaderBlock

    def __repr__(self) -> str:
        return "AccessToken(...)"


def _check_credentials(value: object) -> None:
    if isinstance(value, type) or not (hasattr(value, "token") or hasattr(value, "refresh")):
        raise mismatch("credentials", "a credentials object of google-auth", value)


class GoogleCredential:
    """Authenticates the gateway to Google Cloud with access tokens for the scope `cloud-platform`.

    The tokens are those of `credentials` (a google-auth object of the host, which is refreshed here), or of the service
    account whose key is in `service_account_file` or `service_account_info`, or those of the environment (Application
    Default Credentials: `GOOGLE_APPLICATION_CREDENTIALS`, gcloud's file, the metadata server). Calls count against the
    quota of `quota_project`, by default that of the credentials. Files are read again after a fetch that failed.
    `name` is what log lines call the credential. One object serves any number of event loops. Raises `OptionError` for
    options that are invalid or contradict each other, and `MissingExtra` without google-auth.
    """

    is_operators = True

    def __init__(
        self,
        *,
        credentials: Credentials | None = None,
        service_account_file: str | os.PathLike[str] | None = None,
        service_account_info: Mapping[str, object] | None = None,
        quota_project: str | None = None,
        name: str = "vertex",
        timing: RefreshTiming | None = None,
    ) -> None:
        given = {
            "credentials": credentials,
            "service_account_file": service_account_file,
            "service_account_info": service_account_info,
        }
        first, *others = [name for name, value in given.items() if value is not None] or [""]
        if others:
            raise OptionError(first, f"cannot be combined with {', '.join(others)}", other=others[0])
        if quota_project is not None:
            check_text("quota_project", quota_project, PROJECT_EXPECTED, PROJECT)
        for module in ("google.auth", "requests"):
            require("Vertex", module, "vertex")
        self._given = credentials
        self._file = _path(service_account_file)
        self._info = None if service_account_info is None else _hidden(service_account_info)
        self._key()
        self._quota_project = quota_project
        self._loaded: GoogleCredentials | None = None
        self._running: Future[Expiring[AccessToken]] | None = None
        self._lock = threading.Lock()
        if credentials is not None:
            _check_credentials(credentials)
        check_name("name", name)
        if timing is not None:
            check_type("timing", timing, RefreshTiming, "a RefreshTiming")
        self._timing = timing or RefreshTiming()
        self._refresher = Refresher(self._fetch, self.redact, f'Google access tokens for "{name}"', self._timing)

    def __repr__(self) -> str:
        return "GoogleCredential(...)"

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """Return the request with a token. Raises `UpstreamUnavailable` if no valid token could be fetched."""
        return request.with_headers((await self._refresher.value()).headers)

    async def refresh(self, refused: HttpRequest) -> bool:
        """Return whether there is another token than the one in `refused`, fetching it if necessary.

        Many callers share one fetch. The current token stays if it fails.
        """
        authorization = dict(refused.headers).get(b"authorization")
        return await self._refresher.replace(lambda token: token.headers.lines[0][1] == authorization)

    def status(self) -> RefreshStatus:
        """The state of the fetched token."""
        return self._refresher.status()

    def redact(self, text: str) -> str:
        """Replace the current token and the previous one in a text."""
        return redact(text, [held.token for held in self._refresher.recent])

    async def _fetch(self) -> Expiring[AccessToken]:
        """Wait for the thread that fetches, which goes on if the caller gives up, and serves the next caller."""
        with self._lock:
            if self._running is None or self._running.done():
                self._running = start_thread(self._fetch_blocking, THREAD_NAME)
            running = self._running
        return await asyncio.wrap_future(running)

    def _fetch_blocking(self) -> Expiring[AccessToken]:
        loaded, self._loaded = self._loaded, None  # a fetch that fails starts again from the files
        from bud_asgi.providers.vertex import google_auth  # noqa: PLC0415 - takes long to import

        transport = google_auth.Transport(time.monotonic() + self._timing.timeout)
        with without_debug_logs(*_LOGGING):
            credentials = loaded or google_auth.load(self._given, self._key(), transport)
        recent = {held.token for held in self._refresher.recent}
        if not google_auth.is_fresh(credentials) or credentials.token in recent:
            with without_debug_logs(*_LOGGING):  # again: loading may have imported more of the library
                credentials.refresh(transport)
        self._loaded = credentials
        token, expiry = Secret(credentials.token or "").reveal(), credentials.expiry
        headers = [(b"authorization", f"Bearer {token}".encode())]
        if project := self._quota_project or credentials.quota_project_id:
            headers.append((b"x-goog-user-project", project.encode()))
        expires_at = inf if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        return Expiring(AccessToken(token, header_block(headers)), expires_at)

    def _key(self) -> Mapping[str, object] | None:
        if self._file is None:
            return None if self._info is None else self._info()
        return _read(self._file)


def _hidden(info: Mapping[str, object]) -> Callable[[], Mapping[str, object]]:
    """The key of a service account, in no attribute: it contains a private key."""
    fields = _checked(info, "service_account_info")
    return lambda: fields


def _path(file: str | os.PathLike[str] | None) -> Path | None:
    """The path of a key file. A key that was pasted in its place is not shown."""
    if file is None:
        return None
    if not isinstance(file, str | os.PathLike) or not _PATH.fullmatch(os.fspath(file)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise mismatch("service_account_file", "the path of a service account's key file", file, hide=True)
    return Path(file)


def _read(file: Path) -> Mapping[str, object]:
    try:
        return _checked(json.loads(file.read_bytes()), "service_account_file", f"{file}: ")
    except OSError as error:
        raise OptionError("service_account_file", f"cannot read {path_shown(str(file))}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise OptionError("service_account_file", f"{file}: not valid JSON") from None


def _checked(key: object, option: str, where: str = "") -> Mapping[str, object]:
    fields: Mapping[str, object] = cast("Mapping[str, object]", key) if isinstance(key, Mapping) else {}
    texts = all(isinstance(fields.get(name), str) for name in ("client_email", "private_key", "token_uri"))
    if fields.get("type") != "service_account" or not texts:
        raise OptionError(option, f"{where}not a service account's key")
    return fields
