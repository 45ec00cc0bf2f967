"""The status page as an ASGI app: authenticates, and answers with the document or its data."""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

import msgspec
from starlette.authentication import AuthenticationBackend
from starlette.types import Receive, Scope, Send

from bud_asgi.auth import HostUser, as_chain, authenticate
from bud_asgi.exchange import SCOPE_KEY, Exchange
from bud_asgi.hosting import local_path
from bud_asgi.options import OptionError
from bud_asgi.protocol.errors import GatewayError, MethodNotAllowed, NotFound
from bud_asgi.status.document import CONTENT_SECURITY_POLICY, render
from bud_asgi.status.report import Report, StatusSource, make_report

FRESH = 1.0
"""Seconds for which a report is used again: many open pages cost as much as one."""

JSON_PATH = "/status.json"

_HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_CHALLENGE = 'Basic realm="bud-asgi status", charset="UTF-8"'


class StatusPage:
    """The status page, to be mounted: `GET` of its path is the HTML document, `status.json` below it has the same data.

    `auth` decides who may see it: any `AuthenticationBackend`, or a list of them. Everyone it admits sees the figures
    of all callers, so give operators keys of their own. A browser can log in to `ApiKeys` and other backends that check
    keys: it asks for a user name, which is ignored, and a password, which is the key. Raises `OptionError` without
    `auth`; `Anonymous()` shows it to everyone.
    """

    def __init__(
        self,
        source: StatusSource,
        auth: AuthenticationBackend | Sequence[AuthenticationBackend] | None,
    ) -> None:
        if auth is None:
            raise OptionError("auth", "missing; expected auth=ApiKeys(...), or auth=Anonymous() to show it to everyone")
        self._source = source
        self._chain = as_chain("auth", auth)
        # A host has a login form elsewhere, which a browser's own dialog could not replace.
        self._challenges = self._chain.takes_keys or not all(isinstance(one, HostUser) for one in self._chain.others)
        self._activity = source.activity  # which collects from now on
        self._report: Report | None = None
        self._made_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope. A websocket is refused."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "websockets are not supported"})
        if scope["type"] != "http":
            return
        try:
            content_type, body = await self._answer(scope)
        except GatewayError as error:
            status, headers = self._status_of(error), {**error.headers, "content-type": "text/plain; charset=utf-8"}
            if status == 401:
                headers["www-authenticate"] = _CHALLENGE
            await _send(send, scope, status, headers, f"{error}\n".encode())
        else:
            await _send(send, scope, 200, {"content-type": content_type}, body)

    async def _answer(self, scope: Scope) -> tuple[str, bytes]:
        """The content type and the body of the page. Raises `GatewayError`."""
        path = local_path(scope)
        if path not in {"", "/", JSON_PATH}:
            raise NotFound(f"not found: {path[:200]}")
        if scope["method"] not in {"GET", "HEAD"}:
            raise MethodNotAllowed("expected GET or HEAD", headers={"allow": "GET, HEAD"})
        await self._authenticate(scope)
        report = await self._current()
        if path == JSON_PATH:
            return "application/json", msgspec.json.encode(report)
        return "text/html; charset=utf-8", await render(report, _json_href(scope["path"]))

    async def _authenticate(self, scope: Scope) -> None:
        """Raise a `GatewayError` unless `auth` admits the request; the password of a browser is tried as a key too."""
        own = {
            key: value for key, value in scope.items() if key != SCOPE_KEY
        }  # not the caller that a host has admitted
        key = _password(scope["headers"]) if self._chain.takes_keys else None
        try:
            await authenticate(self._chain, Exchange.of(own), own)
        except GatewayError:
            if key is None:
                raise
            headers = [line for line in scope["headers"] if line[0] not in {b"authorization", b"x-api-key"}]
            own = {**scope, "headers": [*headers, (b"x-api-key", key)]}
            own.pop(SCOPE_KEY, None)
            await authenticate(self._chain, Exchange.of(own), own)

    async def _current(self) -> Report:
        now = time.monotonic()
        if self._report is None or now - self._made_at >= FRESH:
            self._made_at = now  # requests that come meanwhile get the previous report: a store may be slow
            self._report = await make_report(self._source, self._activity)
        return self._report

    def _status_of(self, error: GatewayError) -> int:
        return 403 if error.status == 401 and not self._challenges else error.status


def _password(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The password that a browser sends (RFC 7617)."""
    for name, value in headers:
        scheme, _, credentials = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"basic":
            try:
                return b64decode(credentials.strip(), validate=True).partition(b":")[2] or None
            except binascii.Error:
                return None
    return None


def _json_href(path: str) -> str:
    """Where the data is, relative to the document: a proxy in front may have another prefix."""
    last = path.rpartition("/")[2]
    return f"{quote(last, safe='')}{JSON_PATH}" if last else JSON_PATH[1:]


async def _send(send: Send, scope: Scope, status: int, headers: Mapping[str, str], body: bytes) -> None:
    lines = {**_HEADERS, **headers, "content-length": str(len(body))}
    encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
