"""AWS Signature Version 4 for an `HttpRequest` (vendor page "Create a signed AWS API request"). Pure.

The tests compare it with botocore's signer byte for byte. With temporary keys botocore takes 58, 113 and 617 µs for a
body of 2 kB, 100 kB and 1 MB, this signer 9, 64 and 563, of which 1.5, 56 and 551 hash the body: botocore derives the
key for each request and builds URLs and header maps. Nothing here needs botocore.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote_from_bytes

import msgspec

from bud_asgi.http import Body, Header, HeaderBlock, HttpRequest, header_block
from bud_asgi.secret import Secret

_ALGORITHM = b"AWS4-HMAC-SHA256"
_UNSIGNED = frozenset({b"x-amzn-trace-id"})  # proxies rewrite it


class Keys(msgspec.Struct, frozen=True):
    """An access key; temporary keys have a session token too."""

    access_key: Secret
    secret_key: Secret
    session_token: Secret | None = None

    def secrets(self) -> Iterator[Secret]:
        """Yield every part, none of which may be shown."""
        yield from (self.access_key, self.secret_key)
        if self.session_token is not None:
            yield self.session_token


def payload_hash(body: Body) -> bytes:
    """Return the SHA-256 of a body in hexadecimal, without joining its buffers."""
    if isinstance(body, bytes):
        return hashlib.sha256(body).hexdigest().encode()
    whole = hashlib.sha256()
    for part in body:
        whole.update(part)
    return whole.hexdigest().encode()


class Signer:
    """Signs for one service in one region with one key: any service but S3, which encodes paths differently."""

    __slots__ = ("_access_key", "_day", "_scope", "_secret_key", "_token", "keys")

    def __init__(self, keys: Keys, service: str, region: str) -> None:
        self.keys = keys
        self._access_key = keys.access_key.reveal().encode()
        self._secret_key = keys.secret_key.reveal().encode()
        token = keys.session_token
        self._token = header_block(() if token is None else ((b"x-amz-security-token", token.reveal().encode()),))
        self._scope = (region.encode(), service.encode(), b"aws4_request")
        self._day = (b"", b"", b"")
        """A date, its scope, and the key derived for it."""

    def has_signed(self, request: HttpRequest) -> bool:
        """Whether a signed request was signed with this key."""
        added = dict(request.headers)
        start = b"%b Credential=%b/" % (_ALGORITHM, self._access_key)
        token = dict(self._token).get(b"x-amz-security-token")
        return added.get(b"authorization", b"").startswith(start) and added.get(b"x-amz-security-token") == token

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signer) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def sign(self, request: HttpRequest, payload: bytes, timestamp: bytes) -> HeaderBlock:
        """Return the header fields to add to a request that has none of them yet.

        `payload` is the hash of its body, `timestamp` is as in `20150830T123600Z`. Only `host`, `content-type` and
        `x-amz-*` are signed, because proxies may change other fields. The path is encoded once more for the signature.
        """
        date = (b"x-amz-date", timestamp)
        path, query = _canonical_target(request.target)
        names, lines = _canonical_headers(request, (date, *self._token))
        canonical = b"%b\n%b\n%b\n%b\n\n%b\n%b" % (request.method, path, query, lines, names, payload)
        scope, key = self._derived(timestamp[:8])
        digest = hashlib.sha256(canonical).hexdigest().encode()
        to_sign = b"%b\n%b\n%b\n%b" % (_ALGORITHM, timestamp, scope, digest)
        signature = hmac.digest(key, to_sign, "sha256").hex().encode()
        parts = (_ALGORITHM, self._access_key, scope, names, signature)
        authorization = b"%b Credential=%b/%b, SignedHeaders=%b, Signature=%b" % parts
        return header_block(((b"authorization", authorization), date)) + self._token

    def _all(self) -> tuple[object, ...]:
        return self._access_key, self._secret_key, self._token.wire, self._scope

    def _derived(self, date: bytes) -> tuple[bytes, bytes]:
        derived_for, scope, key = self._day
        if derived_for != date:
            key = b"AWS4" + self._secret_key
            for part in (date, *self._scope):
                key = hmac.digest(key, part, "sha256")
            scope = b"/".join((date, *self._scope))
            self._day = (date, scope, key)  # one assignment, because several threads may sign
        return scope, key


def _canonical_headers(request: HttpRequest, added: Iterable[Header]) -> tuple[bytes, bytes]:
    values = {b"host": request.origin.authority}
    values.update(added)
    for name, value in request.headers:
        if name == b"content-type" or (name[:5] == b"x-amz" and name not in _UNSIGNED):
            trimmed = b" ".join(value.split())
            values[name] = b"%b,%b" % (values[name], trimmed) if name in values else trimmed
    names = sorted(values)
    return b";".join(names), b"\n".join([b"%b:%b" % (name, values[name]) for name in names])


@lru_cache(maxsize=256)
def _canonical_target(target: bytes) -> tuple[bytes, bytes]:
    path, _, query = target.partition(b"?")
    pairs = sorted(pair.partition(b"=")[::2] for pair in query.split(b"&")) if query else []
    encoded = quote_from_bytes(_normalized(path), safe="/~").encode()
    return encoded, b"&".join([b"%b=%b" % pair for pair in pairs])


def _normalized(path: bytes) -> bytes:
    """Remove dot segments (RFC 3986, 5.2.4) and empty segments."""
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in {b"", b"."}:
            segments.append(segment)
    end = b"/" if segments and path[-1:] == b"/" else b""
    return b"/" + b"/".join(segments) + end
