"""What our server needs of uvicorn. If one of these fails, uvicorn has changed: read its `Server` again."""

from __future__ import annotations

import inspect
import pickle
import re
import resource
from pathlib import Path

import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import Server, ServerState

from bud_asgi.server import ConnectionFactory, ServerLimits, default_connections
from bud_asgi.server.connection import ServerConnection


def test_uvicorn_calls_the_factory_with_its_parameters() -> None:
    source = inspect.getsource(Server.startup)
    call = source[source.index("config.http_protocol_class(") :].partition(")")[0]
    theirs = [line.partition("=")[0].strip() for line in call.splitlines() if "=" in line]
    ours = inspect.signature(ConnectionFactory.__call__).parameters
    assert theirs == [name for name in ours if name != "self"]


def test_uvicorn_asks_a_connection_for_nothing_but_its_shutdown() -> None:
    source = inspect.getsource(Server)
    assert {part.partition("(")[0] for part in source.split("connection.")[1:]} == {"shutdown"}
    assert callable(ServerConnection.shutdown)


def test_the_state_of_a_server_has_what_a_protocol_fills() -> None:
    assert vars(ServerState()).keys() >= {"total_requests", "connections", "tasks", "default_headers"}


async def test_the_options_that_a_protocol_follows_exist() -> None:
    config = uvicorn.Config("none:none", interface="asgi3")
    for name in ("asgi_version", "root_path", "limit_concurrency", "reset_contextvars"):
        assert hasattr(config, name), name
    theirs = set(re.findall(r"\bconfig\.(\w+)", inspect.getsource(httptools_impl)))
    handled = {"asgi_version", "limit_concurrency", "load", "loaded", "loaded_app", "reset_contextvars", "root_path"}
    assert theirs == handled | {"ws_protocol_class", "timeout_keep_alive"}  # ours has no WebSockets, and limits


def test_workers_get_the_factory_by_pickle() -> None:
    assert isinstance(pickle.loads(pickle.dumps(ConnectionFactory(ServerLimits()))), ConnectionFactory)


def test_half_of_the_file_descriptors_are_left_for_upstreams() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert default_connections() == (None if soft == resource.RLIM_INFINITY else soft // 2)


def test_the_room_needs_only_the_extra_server() -> None:
    for file in Path(inspect.getfile(ServerConnection)).parent.glob("*.py"):
        assert "import click" not in file.read_text()
