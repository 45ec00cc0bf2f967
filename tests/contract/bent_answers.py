"""Proxies that answer in the gateway's place, or ask it otherwise than they were asked: routers, filters, caches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgspec.structs import replace

from contract.bending import Asked, Bender, Forward, Told

_LIMIT = 1 << 20


def _refusal(status: int, page: bytes = b"<html><h1>No</h1></html>", **headers: str) -> Told:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Told(status, [(b"content-type", b"text/html"), *lines], _once(page))


async def _once(page: bytes) -> AsyncIterator[bytes]:
    yield page


async def routes_on_the_query_too(asked: Asked, forward: Forward) -> Told:
    """Know a path only without a query."""
    return _refusal(404) if b"?" in asked.target else await forward(asked)


async def wants_a_credential_for_hello(asked: Asked, forward: Forward) -> Told:
    """Let nobody ask anything who does not say who is asking."""
    known = asked.header(b"x-api-key") or asked.header(b"authorization")
    return await forward(asked) if known else _refusal(401)


async def is_slow_to_say_hello(asked: Asked, forward: Forward) -> Told:
    """Wait until the backend has woken up."""
    if asked.method == "HEAD":
        await asyncio.sleep(0.5)
    return await forward(asked)


async def filters_attacks(asked: Asked, forward: Forward) -> Told:
    """Refuse what looks like somebody's script, query or path."""
    attack = any(sign in asked.body for sign in (b"<script", b"UNION SELECT", b"/etc/passwd"))
    return _refusal(403) if attack else await forward(asked)


async def takes_a_megabyte(asked: Asked, forward: Forward) -> Told:
    """Take bodies up to the size that a proxy takes out of the box."""
    return _refusal(413) if len(asked.body) > _LIMIT else await forward(asked)


async def redirects_slashes(asked: Asked, forward: Forward) -> Told:
    """Send whoever asks for a path with a slash behind it to the one without."""
    if asked.path.endswith(b"/"):
        return _refusal(307, location=asked.path.rstrip(b"/").decode())
    return await forward(asked)


async def redirects_to_a_slash(asked: Asked, forward: Forward) -> Told:
    """The same the other way round, as frameworks do it."""
    if asked.path.endswith(b"/models"):
        return _refusal(307, location=f"{asked.path.decode()}/")
    return await forward(asked)


async def follows_redirects(asked: Asked, forward: Forward) -> Told:
    """Go where it is sent, the body and the credential in its hands."""
    told = await forward(asked)
    for name, value in told.headers:
        if told.status in {301, 302, 307, 308} and name.lower() == b"location":
            return await forward(replace(asked, target=b"/" + value.split(b"/", 3)[3]))
    return told


async def knows_no_models(asked: Asked, forward: Forward) -> Told:
    """Have no listing of models."""
    return _refusal(404) if b"/models" in asked.path else await forward(asked)


async def knows_the_services_names(asked: Asked, forward: Forward) -> Told:
    """Take the names that the service gave, and no others."""
    named = any(name in asked.body for name in (b'"claude-haiku', b'"claude-sonnet', b'"claude-opus'))
    return await forward(asked) if named or not asked.body else _refusal(404)


def _remembers() -> Bender:
    """Give the same answer to the same question."""
    known: dict[bytes, tuple[Told, bytes]] = {}

    async def bend(asked: Asked, forward: Forward) -> Told:
        if asked.body not in known:
            told = await forward(asked)
            known[asked.body] = told, b"".join([chunk async for chunk in told.chunks])
        told, whole = known[asked.body]
        return replace(told, chunks=_once(whole))

    return bend


def _joins() -> Bender:
    """Ask once what is asked twice at the same time."""
    running: dict[bytes, asyncio.Future[tuple[Told, bytes]]] = {}

    async def bend(asked: Asked, forward: Forward) -> Told:
        if (other := running.get(asked.body)) is not None:
            told, whole = await other
            return replace(told, chunks=_once(whole))
        mine = running[asked.body] = asyncio.get_running_loop().create_future()
        told = await forward(asked)
        whole = b"".join([chunk async for chunk in told.chunks])
        mine.set_result((told, whole))
        del running[asked.body]
        return replace(told, chunks=_once(whole))

    return bend


remembers_answers = _remembers()
joins_equal_questions = _joins()
