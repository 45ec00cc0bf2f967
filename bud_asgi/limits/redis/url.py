"""The URL of a Redis or Valkey server, of Sentinels, or of a cluster."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from redis.asyncio.connection import SSLConnection
from redis.asyncio.connection import parse_url as parse_redis_url
from redis.exceptions import RedisError

from bud_asgi.options import OptionError, mismatch
from bud_asgi.secret import AnySecret, revealed

Kind = Literal["server", "sentinel", "cluster"]

_KINDS: Mapping[str, Kind] = {"": "server", "+sentinel": "sentinel", "+cluster": "cluster"}
_SCHEME = re.compile(r"(redis|valkey)(s?)(|\+sentinel|\+cluster)|unix")
_EXPECTED = (
    "a URL such as redis://host:6379/0, rediss://user:password@host, unix:///path/to/socket, "
    "redis+sentinel://host1:26379,host2:26379/service or redis+cluster://host1,host2; valkey:// means the same"
)
_ESCAPE = "special characters of a user name or password have to be percent-encoded"
_TLS = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
    "ssl_check_hostname", "ssl_min_version", "ssl_ciphers", "ssl_include_verify_flags", "ssl_exclude_verify_flags",
)  # fmt: skip
_NOT_OF_CLUSTERS = frozenset({"ssl_ca_path", "ssl_password"})  # redis-py has no such options there
_SENTINEL = ("sentinel_username", "sentinel_password")
_PORTS: Mapping[Kind, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}


class Login(msgspec.Struct, frozen=True, eq=False):
    """A user name, empty for the default user, and a password, empty for none."""

    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "Login(...)"


class Target(msgspec.Struct, frozen=True, eq=False):
    """Where a store is. `nodes` are hosts and ports: the server, or the Sentinels or cluster nodes to ask for it.

    `path` is that of a Unix socket instead. `service` is the name that the Sentinels know. `tls` is the context of
    connections, `tls_options` the same for redis-py. `shown` is the URL without credentials.
    """

    kind: Kind
    nodes: tuple[tuple[str, int], ...]
    shown: str
    path: str = ""
    service: str = ""
    db: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: ssl.SSLContext | None = None
    tls_options: Mapping[str, object] = {}

    def __repr__(self) -> str:
        """Leave out the credentials."""
        return f"Target({self.shown!r})"


def parse_url(url: AnySecret, option: str = "url") -> Target:
    """Check a URL and take it apart. No error shows it. Raises `OptionError`."""
    text = revealed(url)
    if not isinstance(text, str):
        raise mismatch(option, _EXPECTED, text, hide=True)
    scheme, _, rest = text.partition("://")
    form = _SCHEME.fullmatch(scheme)
    if form is None:
        raise OptionError(option, f"expected {_EXPECTED}")
    if "#" in rest:
        raise OptionError(option, f'contains a "#", which is not allowed; {_ESCAPE}')
    try:
        return _parse(option, scheme, _KINDS[form[3] or ""], bool(form[2]), rest)
    except OptionError:
        raise
    except (ValueError, RedisError):  # its message may contain a part of the password
        raise OptionError(option, f"expected {_EXPECTED}; {_ESCAPE}") from None


def _parse(option: str, scheme: str, kind: Kind, secure: bool, rest: str) -> Target:
    parts = urlsplit(f"{'unix' if scheme == 'unix' else 'redis'}://{rest}")
    if "@" in parts.path:  # a slash in the password
        raise OptionError(option, f'contains a "@" after the host; {_ESCAPE}')
    user, _, hosts = parts.netloc.rpartition("@")
    query = _query(option, parts.query, kind, secure=secure)
    username, _, password = user.partition(":")
    login = Login(unquote(username), unquote(password))
    sentinel_login = Login(*(query.pop(name, "") for name in _SENTINEL))
    given_db = query.pop("db", None)
    options = _tls_options(query)
    tls = _tls_context(option, options) if secure else None
    if scheme == "unix":
        if not parts.path.strip("/") or hosts:
            raise OptionError(option, "expected the path of a socket, as in unix:///run/valkey.sock")
        db = _db(option, given_db or "")
        return Target("server", (), f"unix://{parts.path}", path=unquote(parts.path), db=db, login=login)
    nodes = tuple(_node(option, host, _PORTS[kind]) for host in hosts.split(","))
    if kind == "server" and len(nodes) > 1:
        raise OptionError(option, "several hosts need redis+sentinel:// or redis+cluster://")
    service, path = "", parts.path.strip("/")
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise OptionError(option, "the name of the service is missing, as in redis+sentinel://host:26379/service")
    db = _db(option, path or given_db or "")
    if kind == "cluster" and db:
        raise OptionError(option, "a cluster has only the database 0")
    shown = f"{scheme}://{','.join(f'{_bracketed(host)}:{port}' for host, port in nodes)}{parts.path}"
    return Target(
        kind,
        nodes,
        shown,
        service=unquote(service),
        db=db,
        login=login,
        sentinel_login=sentinel_login,
        tls=tls,
        tls_options=options,
    )


def _query(option: str, query: str, kind: Kind, *, secure: bool) -> dict[str, str]:
    """The options in the query of the URL."""
    known = ["db", *(_SENTINEL if kind == "sentinel" else ()), *_TLS]
    if kind == "cluster":
        known = [name for name in known if name not in _NOT_OF_CLUSTERS]
    found = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    if not found.keys() <= set(known):
        raise OptionError(option, f"contains an unknown option; expected {', '.join(known)}; {_ESCAPE}")
    if not secure and any(name in _TLS for name in found):
        raise OptionError(option, "has TLS options, which need a rediss:// or valkeys:// URL")
    return found


def _tls_options(query: Mapping[str, str]) -> Mapping[str, object]:
    """The TLS options, as redis-py reads them."""
    pairs = "&".join(f"{name}={_quoted(value)}" for name, value in query.items())
    parsed = cast("Mapping[str, object]", parse_redis_url(f"rediss://host?{pairs}"))
    return {name: value for name, value in parsed.items() if name in _TLS}


def _quoted(value: str) -> str:
    return "".join(f"%{byte:02X}" for byte in value.encode())


def _tls_context(option: str, options: Mapping[str, object]) -> ssl.SSLContext:
    try:
        connection = SSLConnection(**cast("dict[str, Any]", options))
        return cast("ssl.SSLContext", connection.ssl_context.get())  # pyright: ignore[reportUnknownMemberType]
    except (OSError, ValueError, TypeError, RedisError) as error:
        problem = f"its TLS options cannot be used ({type(error).__name__}); check the files that they name"
        raise OptionError(option, problem) from None


def _node(option: str, text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise OptionError(option, f"a host is missing; expected {_EXPECTED}; {_ESCAPE}")
    return parts.hostname, parts.port or port


def _db(option: str, text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise OptionError(option, "expected the number of a database after the host, as in redis://host:6379/0")
    return int(text or 0)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
