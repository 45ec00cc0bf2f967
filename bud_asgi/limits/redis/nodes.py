"""Finding the node that holds the limits, and connecting to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, cast

from redis.asyncio import RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode

from bud_asgi.limits.redis.channel import Channel
from bud_asgi.limits.redis.errors import CallFailed, ServerError
from bud_asgi.limits.redis.scripts import SCRIPTS, command
from bud_asgi.limits.redis.timing import StoreTiming
from bud_asgi.limits.redis.url import Login, Target

_PROBE_AFTER = 60  # seconds of silence after which the kernel checks whether the peer is still there


async def connect(target: Target, tag: bytes, timing: StoreTiming) -> Channel:
    """Find the node, connect, authenticate, select the database and load the scripts.

    Raises `OSError`, `RedisError`, `CallFailed` and `ServerError`.
    """
    loop = asyncio.get_running_loop()
    channel = Channel(loop, timing.silence)
    try:
        if target.path:
            await loop.create_unix_connection(lambda: channel, target.path)
        else:
            host, port = await find_node(target, tag, timing)
            transport, _ = await loop.create_connection(lambda: channel, host, port, ssl=target.tls)
            _keep_alive(transport)
        await _introduce(channel, target, loop.time() + timing.connect_within)
    except BaseException:
        channel.close("the connection was not completed")
        raise
    return channel


async def find_node(target: Target, tag: bytes, timing: StoreTiming) -> tuple[str, int]:
    """Host and port of the node that has the keys with that hash tag. Raises `OSError` and `RedisError`."""
    if target.kind == "server":
        return target.nodes[0]
    options = {**target.tls_options, "ssl": target.tls is not None}
    options["socket_timeout"] = options["socket_connect_timeout"] = timing.connect_within / len(target.nodes)
    if target.kind == "sentinel":
        return await _ask_sentinels(target, options)
    return await _ask_cluster(target, tag, options)


async def _ask_sentinels(target: Target, options: dict[str, Any]) -> tuple[str, int]:
    if target.sentinel_login.password:
        options |= _redis_py(target.sentinel_login)
    sentinels = Sentinel(target.nodes, sentinel_kwargs=options)
    try:
        return cast("tuple[str, int]", await sentinels.discover_master(target.service))
    finally:
        await sentinels.aclose()


async def _ask_cluster(target: Target, tag: bytes, options: dict[str, Any]) -> tuple[str, int]:
    if target.login.password:
        options |= _redis_py(target.login)
    nodes = [ClusterNode(host, port) for host, port in target.nodes]
    cluster = RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    try:
        await cluster.initialize()
        node = cluster.get_node_from_key(tag.decode())
        if node is None:
            raise CallFailed("no node of the cluster serves the keys of the limits", sent=False)
        return str(node.host), int(node.port)
    finally:
        await cluster.aclose()


def _redis_py(login: Login) -> dict[str, str | None]:
    return {"username": login.username or None, "password": login.password}


async def _introduce(channel: Channel, target: Target, deadline: float) -> None:
    login, commands = target.login, list[bytes]()
    if login.password:
        commands.append(command("AUTH", *([login.username] if login.username else []), login.password))
    if target.db:
        commands.append(command("SELECT", target.db))
    commands += [command("SCRIPT", "LOAD", script.source) for script in SCRIPTS]
    for reply in [channel.send(one, deadline) for one in commands]:
        result = await reply
        if isinstance(result, CallFailed | ServerError):
            raise result


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    sock = cast("socket.socket | None", transport.get_extra_info("socket"))
    if sock is None:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER)
