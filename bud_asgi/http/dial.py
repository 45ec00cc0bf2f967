"""Bringing a connection up: names, addresses, TCP and TLS, within one timeout, with the reason where it fails."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

import aiohappyeyeballs

from bud_asgi.http.seam import HttpError, Origin

NEXT_ADDRESS = 0.25
"""Seconds before the next address is tried beside the one that has not answered (RFC 8305, 5)."""

_TURNS = 3
"""Of the loop, until a transport that was just asked for has told its protocol."""

P = TypeVar("P", bound=asyncio.BufferedProtocol)


async def dial(origin: Origin, make: Callable[[socket.socket], P], within: float) -> P:
    """Connect within so many seconds and return the protocol, made when the socket is connected.

    Raises `HttpError` of kind `connect` or `tls`. Cancelled, nothing stays open.
    """
    place = f"{origin.host}:{origin.port}"
    try:
        async with asyncio.timeout(within):
            connected = await _connect(origin)
            return await _adopt(origin, make, connected)
    except TimeoutError:
        raise HttpError("connect", f"{place}: no connection within {within:g} s") from None
    except ssl.SSLError as error:
        raise HttpError("tls", f"{place}: {reason(error)}") from error
    except _HandshakeBrokenError as error:
        raise HttpError("tls", f"{place}: the connection ended within the TLS handshake") from error
    except (OSError, RuntimeError) as error:
        # uvloop raises some failures of connect() as RuntimeError.
        raise HttpError("connect", f"{place}: {words(error)}") from error


class _HandshakeBrokenError(Exception):
    """The peer is there, and ended the connection within the handshake."""


async def _connect(origin: Origin) -> socket.socket:
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    connected = await aiohappyeyeballs.start_connection(  # pyright: ignore[reportUnknownMemberType] - a bare tuple in its own types
        addresses, happy_eyeballs_delay=NEXT_ADDRESS, loop=loop
    )
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


async def _adopt(origin: Origin, make: Callable[[socket.socket], P], connected: socket.socket) -> P:
    loop = asyncio.get_running_loop()
    name = origin.host if origin.tls else None
    creating = loop.create_task(
        loop.create_connection(lambda: make(connected), sock=connected, ssl=origin.tls, server_hostname=name)
    )
    try:
        _, protocol = await _or_ended(creating)
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


async def _or_ended(creating: asyncio.Task[tuple[asyncio.Transport, P]]) -> tuple[asyncio.Transport, P]:
    """What is being created; cancelled, the peer sees the end at once, and what was being created has ended.

    Cancelled before its transport has told the TLS layer of itself, asyncio's leaves it in the loop, polling the number
    of a socket that is closed, in the way of whichever connection gets the number next. So it first gets its turns.
    """
    try:
        return await asyncio.shield(creating)
    except asyncio.CancelledError:
        creating.add_done_callback(_abandon)
        try:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        finally:
            creating.cancel()
        await asyncio.wait([creating])
        raise


def _abandon(created: asyncio.Task[tuple[asyncio.Transport, P]]) -> None:
    if not created.cancelled() and created.exception() is None:
        created.result()[0].abort()


def words(error: OSError | RuntimeError) -> str:
    """The system's own words: asyncio and uvloop each put theirs in their place, with the address."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


def reason(error: ssl.SSLError) -> str:
    """Why a handshake failed, in OpenSSL's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return (error.reason or "handshake failed").lower().replace("_", " ")
