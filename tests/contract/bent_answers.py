"""Proxies that answer in the gateway's place, or ask it otherwise than they were asked: routers, filters, caches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgspec.structs import replace

from contract.bending import Bender, Forward, ProxiedReply, ProxiedRequest

_LIMIT = 1 << 20


def _refusal(status: int, page: bytes = b"<html><h1>No</h1></html>", **headers: str) -> ProxiedReply:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    return ProxiedReply(status, [(b"content-type", b"text/html"), *lines], _once(page))


async def _once(page: bytes) -> AsyncIterator[bytes]:
    yield page


async def routes_on_the_query_too(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Know a path only without a query."""
    return _refusal(404) if b"?" in request.target else await forward(request)


async def wants_a_credential_for_hello(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Require a credential for every request."""
    known = request.header(b"x-api-key") or request.header(b"authorization")
    return await forward(request) if known else _refusal(401)


async def is_slow_to_say_hello(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Wait until the backend has woken up."""
    if request.method == "HEAD":
        await asyncio.sleep(0.5)
    return await forward(request)


async def filters_attacks(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Refuse what looks like somebody's script, query or path."""
    attack = any(sign in request.body for sign in (b"<script", b"UNION SELECT", b"/etc/passwd"))
    return _refusal(403) if attack else await forward(request)


async def takes_a_megabyte(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Take bodies up to the size that a proxy takes out of the box."""
    return _refusal(413) if len(request.body) > _LIMIT else await forward(request)


async def redirects_slashes(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Redirect a path with a trailing slash to the one without."""
    if request.path.endswith(b"/"):
        return _refusal(307, location=request.path.rstrip(b"/").decode())
    return await forward(request)


async def redirects_to_a_slash(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """The same the other way round, as frameworks do it."""
    if request.path.endswith(b"/models"):
        return _refusal(307, location=f"{request.path.decode()}/")
    return await forward(request)


async def follows_redirects(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Go where it is sent, the body and the credential in its hands."""
    reply = await forward(request)
    for name, value in reply.headers:
        if reply.status in {301, 302, 307, 308} and name.lower() == b"location":
            return await forward(replace(request, target=b"/" + value.split(b"/", 3)[3]))
    return reply


async def knows_no_models(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Have no listing of models."""
    return _refusal(404) if b"/models" in request.path else await forward(request)


async def knows_the_services_names(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Take the names that the service gave, and no others."""
    named = any(name in request.body for name in (b'"claude-haiku', b'"claude-sonnet', b'"claude-opus'))
    return await forward(request) if named or not request.body else _refusal(404)


def _remembers() -> Bender:
    """Give the same answer to the same question."""
    known: dict[bytes, tuple[ProxiedReply, bytes]] = {}

    async def bend(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
        if request.body not in known:
            reply = await forward(request)
            known[request.body] = reply, b"".join([chunk async for chunk in reply.chunks])
        reply, whole = known[request.body]
        return replace(reply, chunks=_once(whole))

    return bend


def _joins() -> Bender:
    """Send two equal concurrent requests once."""
    running: dict[bytes, asyncio.Future[tuple[ProxiedReply, bytes]]] = {}

    async def bend(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
        if (other := running.get(request.body)) is not None:
            reply, whole = await other
            return replace(reply, chunks=_once(whole))
        mine = running[request.body] = asyncio.get_running_loop().create_future()
        reply = await forward(request)
        whole = b"".join([chunk async for chunk in reply.chunks])
        mine.set_result((reply, whole))
        del running[request.body]
        return replace(reply, chunks=_once(whole))

    return bend


remembers_answers = _remembers()
joins_equal_questions = _joins()
