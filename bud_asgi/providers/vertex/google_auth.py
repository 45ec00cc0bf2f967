"""What is used of google-auth: it finds credentials, and fetches tokens over our own transport.

Imported on first use, in the thread that fetches, because it takes long to import. Vendor pages:
Google's "How Application Default Credentials works", "Workload Identity Federation".
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from math import inf
from typing import Protocol, cast
from urllib.parse import SplitResult, urlsplit

import google.auth
import msgspec
from google.auth.credentials import (
    TokenState,
    with_scopes_if_required,  # pyright: ignore[reportUnknownVariableType] - the library's own is untyped
)
from google.auth.exceptions import TransportError
from google.oauth2.service_account import Credentials as ServiceAccount

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_MAX_REPLY = 1 << 20


class GoogleCredentials(Protocol):
    """What is used of a credentials object; its times are naive datetimes in UTC."""

    @property
    def token(self) -> str | None:
        """The access token, if one was fetched."""
        ...

    @property
    def expiry(self) -> datetime | None:
        """When the token expires; `None`: never."""
        ...

    @property
    def token_state(self) -> TokenState:
        """Whether the token can be used."""
        ...

    @property
    def quota_project_id(self) -> str | None:
        """The project whose quota calls count against, if not that of the credentials."""
        ...

    def refresh(self, request: object) -> None:
        """Fetch another token. Blocks."""
        ...


class _Default(Protocol):
    def __call__(self, *, request: object) -> tuple[object, str | None]: ...


def load(given: object | None, key: Mapping[str, object] | None, transport: Transport) -> GoogleCredentials:
    """Return the given credentials, or those of a service account's key, or those of the environment.

    Raises `GoogleAuthError`, `ValueError`, `OSError`.
    """
    found = given
    if key is not None:
        found = ServiceAccount.from_service_account_info(key)  # pyright: ignore[reportUnknownMemberType] - untyped
    elif found is None:
        # Without scopes, which are added below: with them it calls another API for the project of a federated identity.
        found, _ = cast("_Default", google.auth.default)(request=transport)  # pyright: ignore[reportUnknownMemberType]
    return cast("GoogleCredentials", with_scopes_if_required(found, SCOPES))


def is_fresh(credentials: GoogleCredentials) -> bool:
    """Whether the credentials hold a usable token, as those of a host may."""
    return credentials.token_state is TokenState.FRESH


class Reply(msgspec.Struct, frozen=True):
    """A response, with the attributes that google-auth reads."""

    status: int
    headers: HTTPMessage
    data: bytes


class Transport:
    """google-auth's `google.auth.transport.Request` over the standard library's HTTP client. It blocks.

    google-auth's own transports trust certifi's authorities, read proxies and passwords (`.netrc`) from the
    environment, and have a timeout for each read only. This one trusts the system's authorities, as the rest of the
    gateway does, and `deadline`, on the monotonic clock, ends every request made through it.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cert: Sequence[str] | None = None,
        **_options: object,
    ) -> Reply:
        """Send a request. `cert` names the files of a client certificate and its key. Raises `TransportError`."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _failed("the deadline has passed")
        parts = urlsplit(url)
        connection = _connection(parts, min(left, timeout or inf), cert)
        cut = threading.Timer(left, _cut, (connection,))  # the socket's timeout restarts with each read
        cut.daemon = True
        cut.start()
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body, dict(headers or {}))
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read(_MAX_REPLY))
        except (OSError, HTTPException) as error:
            raise _failed(f"{parts.hostname}: {error or type(error).__name__}") from error
        finally:
            cut.cancel()
            connection.close()


def _connection(parts: SplitResult, timeout: float, cert: Sequence[str] | None) -> HTTPConnection:
    if parts.scheme != "https":
        return HTTPConnection(parts.netloc, timeout=timeout)
    tls = ssl.create_default_context()
    if cert:
        tls.load_cert_chain(*cert)
    return HTTPSConnection(parts.netloc, timeout=timeout, context=tls)


def _cut(connection: HTTPConnection) -> None:
    if isinstance(peer := connection.sock, socket.socket):
        with suppress(OSError):  # already closed
            peer.shutdown(socket.SHUT_RDWR)


def _failed(message: str) -> TransportError:
    return TransportError(f"the token request failed: {message}")
