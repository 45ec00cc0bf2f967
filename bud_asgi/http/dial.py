"""Opening a connection: name resolution, TCP and TLS under one timeout, with a precise error on failure."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

import aiohappyeyeballs

from bud_asgi.http.seam import HttpError, Origin
from bud_asgi.http.socket_state import set_options

HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds before the next address is tried in parallel with one that has not responded (RFC 8305, section 5)."""

_ATTACH_TURNS = 3
"""Loop iterations to let a new transport attach to its protocol before it is cancelled."""

P = TypeVar("P", bound=asyncio.BufferedProtocol)


async def dial(origin: Origin, make_protocol: Callable[[socket.socket], P], timeout: float) -> P:
    """Connect within `timeout` seconds and return the protocol, which is made once the socket is connected.

    Raises `HttpError` of kind `connect` or `tls`. If cancelled, nothing stays open.
    """
    address = f"{origin.host}:{origin.port}"
    try:
        async with asyncio.timeout(timeout):
            connected = await _connect(origin)
            return await _open_transport(origin, make_protocol, connected)
    except TimeoutError:
        raise HttpError("connect", f"{address}: no connection within {timeout:g} s") from None
    except ssl.SSLError as error:
        raise HttpError("tls", f"{address}: {tls_error_text(error)}") from error
    except _HandshakeBrokenError as error:
        raise HttpError("tls", f"{address}: the connection ended within the TLS handshake") from error
    except (OSError, RuntimeError) as error:
        # uvloop raises some failures of connect() as RuntimeError.
        raise HttpError("connect", f"{address}: {os_error_text(error)}") from error


class _HandshakeBrokenError(Exception):
    """The peer accepted the connection and ended it within the TLS handshake."""


async def _connect(origin: Origin) -> socket.socket:
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    connected = await aiohappyeyeballs.start_connection(  # pyright: ignore[reportUnknownMemberType] - a bare tuple in its own types
        addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, loop=loop
    )
    set_options(connected)
    return connected


async def _open_transport(origin: Origin, make_protocol: Callable[[socket.socket], P], connected: socket.socket) -> P:
    loop = asyncio.get_running_loop()
    name = origin.host if origin.tls else None
    creating = loop.create_task(
        loop.create_connection(lambda: make_protocol(connected), sock=connected, ssl=origin.tls, server_hostname=name)
    )
    try:
        _, protocol = await _cancel_safely(creating)
    except ssl.SSLError:
        connected.close()
        raise
    except OSError as error:
        connected.close()
        raise _HandshakeBrokenError from error
    except BaseException:
        connected.close()
        raise
    return protocol


async def _cancel_safely(creating: asyncio.Task[tuple[asyncio.Transport, P]]) -> tuple[asyncio.Transport, P]:
    """Wait for the transport. If cancelled, close it at once and return only when `creating` has ended.

    If `create_connection` is cancelled before the transport is attached to the TLS layer, asyncio keeps polling the
    closed file descriptor and breaks the next connection that reuses it. So the transport first gets a few loop
    iterations to attach.
    """
    try:
        return await asyncio.shield(creating)
    except asyncio.CancelledError:
        creating.add_done_callback(_abort_if_open)
        try:
            for _ in range(_ATTACH_TURNS):
                await asyncio.sleep(0)
        finally:
            creating.cancel()
        await asyncio.wait([creating])
        raise


def _abort_if_open(created: asyncio.Task[tuple[asyncio.Transport, P]]) -> None:
    if not created.cancelled() and created.exception() is None:
        created.result()[0].abort()


def os_error_text(error: OSError | RuntimeError) -> str:
    """Return the operating system's message, without the texts and addresses that asyncio and uvloop put around it."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


def tls_error_text(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason for a failed handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return (error.reason or "handshake failed").lower().replace("_", " ")
