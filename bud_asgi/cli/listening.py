"""Where `serve` listens: an address, a Unix socket or an inherited socket, with or without TLS."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bud_asgi.config import ConfigError, Problem, reference

BACKLOG = 2048
"""Connections that may wait to be accepted."""


class Tls(msgspec.Struct, frozen=True):
    """The files of the certificate chain and of its key, and a reference to the password of the key, all optional."""

    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = None


class Listening(msgspec.Struct, frozen=True):
    """The sockets of a server, its address in words, and the path of a Unix socket, which is removed at the end."""

    sockets: Sequence[socket.socket]
    address: str
    path: str | None = None

    def close(self) -> None:
        """Close the sockets, and remove the path."""
        for one in self.sockets:
            one.close()
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)


def listen_on(host: str, port: int, scheme: str) -> Listening:
    """Listen on all addresses of a host name. Port 0 takes a free one, the same for all. Raises `OSError`."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sockets.append(one := socket.socket(family, kind, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port, *address[2:]))
            one.listen(BACKLOG)
            port = one.getsockname()[1]
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return Listening(sockets, f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")


def listen_on_path(path: str) -> Listening:
    """Listen on a Unix socket, which any local user may connect to. One without a server is replaced.

    Raises `OSError`.
    """
    file = Path(path)
    if file.exists() and stat.S_ISSOCK(file.stat().st_mode) and not _answers(path):
        file.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        file.chmod(0o666)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return Listening([listener], f"unix:{path}", path)


def listen_on_descriptor(number: int) -> Listening:
    """Use a socket that the parent process, such as systemd, listens on. Raises `OSError`."""
    listener = socket.socket(fileno=os.dup(number))
    try:
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return Listening([listener], f"file descriptor {number}")


def listening_problem(place: str, error: OSError) -> str:
    """Return on one line why a server cannot listen there."""
    hint = "; choose another with --port" if error.errno == errno.EADDRINUSE and not place.startswith("--") else ""
    return f"{place}: {(error.strerror or str(error)).lower()}{hint}"


def tls_options(tls: Tls) -> Mapping[str, Any]:
    """Return uvicorn's options for TLS; none without a certificate. Raises `ConfigError`."""
    if tls.certfile is None:
        if tls.keyfile or tls.password:
            raise ConfigError(
                [Problem("", "--ssl-certfile", "missing; the file of the certificate is required for TLS")]
            )
        return {}
    password = None
    if tls.password:
        password = reference(tls.password, "--ssl-keyfile-password", os.environ).reveal()
    _check_certificate(tls.certfile, tls.keyfile, password)
    return {
        "ssl_certfile": tls.certfile,
        "ssl_keyfile": tls.keyfile,
        "ssl_keyfile_password": password,
    }


def _check_certificate(certfile: str, keyfile: str | None, password: str | None) -> None:
    """Load the files as uvicorn will, for an error that names the option. OpenSSL is not to prompt for a password."""
    prompted = False

    def ask() -> str:
        nonlocal prompted
        prompted = True
        return password or ""

    for option, file in (("--ssl-certfile", certfile), ("--ssl-keyfile", keyfile)):
        if file is not None:
            _check_readable(option, file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, ask)
    except (ssl.SSLError, OSError):
        option, problem = "--ssl-certfile", f"{certfile}: expected a certificate chain in PEM form, with its key"
        if prompted:
            what = "wrong for" if password else "missing; expected a reference such as env:NAME or file:PATH for"
            option, problem = "--ssl-keyfile-password", f"{what} the encrypted key"
        raise ConfigError([Problem("", option, problem)]) from None


def _check_readable(option: str, file: str) -> None:
    try:
        Path(file).open("rb").close()
    except OSError as error:
        raise ConfigError([Problem("", option, f"cannot read {file}: {error.strerror}")]) from None


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(path)
        return True
    return False
