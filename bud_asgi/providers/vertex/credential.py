"""Google's access tokens as a credential: found and fetched by google-auth, in a thread, for it blocks.

Wire facts: Google Cloud's "How Application Default Credentials works", "Set the quota project".
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from bud_asgi.http import Header, HttpRequest
from bud_asgi.options import OptionError, check_text, mismatch
from bud_asgi.protocol.headers import Headers
from bud_asgi.providers.refresher import DEADLINE, Expiring, Refresher
from bud_asgi.secret import Secret

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from bud_asgi.providers.vertex.google_auth import GoogleCredentials

PROJECT = re.compile(r"[!-~]{1,200}")
PROJECT_EXPECTED = "the id of a Google Cloud project"
_PATH = re.compile(r"(?!env:|file:|\{)[^\0-\x1f]{1,4096}")


class AccessToken(msgspec.Struct, frozen=True):
    """A token, and the headers that it is sent in."""

    token: str
    headers: tuple[Header, ...]

    def __repr__(self) -> str:
        return "AccessToken(...)"


class GoogleCredential:
    """Proves the gateway to Google Cloud by access tokens with the scope `cloud-platform`.

    They are those of `credentials` (a google-auth object of the host's, which is refreshed here), of the service
    account whose key is in `service_account_file` or `service_account_info`, else those that the environment has
    (Application Default Credentials: `GOOGLE_APPLICATION_CREDENTIALS`, gcloud's file, the metadata server). Calls count
    against the quota of `quota_project`, by default the credentials' own. Files are read again after a fetch that
    failed. One object serves any number of event loops. Raises `OptionError`.
    """

    is_operators = True

    def __init__(
        self,
        *,
        credentials: Credentials | None = None,
        service_account_file: str | os.PathLike[str] | None = None,
        service_account_info: Mapping[str, object] | None = None,
        quota_project: str | None = None,
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
        self._given = credentials
        self._file = _path(service_account_file)
        self._info = None if service_account_info is None else _checked(service_account_info, "service_account_info")
        self._key()
        self._quota_project = quota_project
        self._loaded: GoogleCredentials | None = None
        self._asking: Future[Expiring[AccessToken]] | None = None
        self._lock = threading.Lock()
        self._renewal = Refresher(self._fetch, self.redact, "Google's access tokens")

    def __repr__(self) -> str:
        return "GoogleCredential(...)"

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """The request with a token. Raises `UpstreamUnavailable` when there is none to be had."""
        return request.with_headers((await self._renewal.value()).headers)

    async def refresh(self) -> bool:
        """Get another token, once for all who want that now; the one in use stays when it fails."""
        return await self._renewal.renew()

    def redact(self, text: str) -> str:
        """Blot the token out, and the one before."""
        for held in self._renewal.recent:
            text = Secret(held.token).redact(text)
        return text

    async def _fetch(self) -> Expiring[AccessToken]:
        """What the thread gets. Whoever gives up waiting for it does not end it."""
        with self._lock:
            asking = self._asking
            if asking is None or asking.done():
                asking = Future[Expiring[AccessToken]]()
                asking.set_running_or_notify_cancel()
                # Not of an executor: those are waited for when the loop or the process ends.
                threading.Thread(target=self._run, args=(asking,), name="bud_asgi Google token", daemon=True).start()
                self._asking = asking
        return await asyncio.wrap_future(asking)

    def _run(self, asking: Future[Expiring[AccessToken]]) -> None:
        try:
            fetched = self._ask()
        except Exception as error:  # noqa: BLE001 - the end of a thread: raised again where it is awaited
            self._loaded = None
            asking.set_exception(error)
        else:
            asking.set_result(fetched)

    def _ask(self) -> Expiring[AccessToken]:
        from bud_asgi.providers.vertex import google_auth  # noqa: PLC0415 - it takes long to load

        transport = google_auth.Transport(time.monotonic() + DEADLINE)
        credentials = self._loaded or google_auth.load(self._given, self._key(), transport)
        if not google_auth.is_fresh(credentials) or credentials.token in {held.token for held in self._renewal.recent}:
            credentials.refresh(transport)
        self._loaded = credentials
        token, expiry = Secret(credentials.token or "").reveal(), credentials.expiry
        headers = [(b"authorization", f"Bearer {token}".encode())]
        if project := self._quota_project or credentials.quota_project_id:
            headers.append((b"x-goog-user-project", project.encode()))
        expires = inf if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        return Expiring(AccessToken(token, tuple(headers)), expires)

    def _key(self) -> Mapping[str, object] | None:
        return self._info if self._file is None else _read(self._file)


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
        raise OptionError("service_account_file", f"cannot read {file}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise OptionError("service_account_file", f"{file}: not valid JSON") from None


def _checked(key: object, option: str, where: str = "") -> Mapping[str, object]:
    fields: Mapping[str, object] = cast("Mapping[str, object]", key) if isinstance(key, Mapping) else {}
    texts = all(isinstance(fields.get(name), str) for name in ("client_email", "private_key", "token_uri"))
    if fields.get("type") != "service_account" or not texts:
        raise OptionError(option, f"{where}not a service account's key")
    return fields
