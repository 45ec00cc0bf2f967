"""What our connection needs of uvicorn. If one of these fails, uvicorn has changed: read its protocol again."""

from __future__ import annotations

import inspect
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

from bud_asgi.server import ConnectionFactory, ServerLimits, default_connections
from bud_asgi.server.connection import ServerConnection
from bud_asgi.server.transport import ConnectionTransport

OWN = {"abort", "on_deadline"}
NEW_CALLBACKS = {"on_chunk_header"}


async def _app(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


@pytest.fixture
def config() -> uvicorn.Config:
    made = uvicorn.Config(_app, log_config=None, ws="none")
    made.load()
    return made


def test_each_method_that_is_replaced_exists_with_the_same_parameters() -> None:
    replaced = {
        name for name, value in vars(ServerConnection).items() if inspect.isfunction(value) and not name.startswith("_")
    }
    for name in replaced - OWN - NEW_CALLBACKS:
        theirs, ours = (inspect.signature(getattr(one, name)) for one in (HttpToolsProtocol, ServerConnection))
        assert list(theirs.parameters) == list(ours.parameters), name


def test_uvicorn_has_no_method_of_the_names_that_are_ours() -> None:
    private = {name for name in vars(ServerConnection) if name.startswith("_") and not name.startswith("__")}
    for name in OWN | NEW_CALLBACKS | private:
        assert not hasattr(HttpToolsProtocol, name), name


async def test_the_attributes_that_are_used_exist(config: uvicorn.Config) -> None:
    there = HttpToolsProtocol(config, ServerState(), {})
    for name in ("app", "cycle", "expect_100_continue", "flow", "headers", "loop", "parser", "pipeline", "transport"):
        assert hasattr(there, name), name
    cycle = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("disconnected", "keep_alive", "message_event", "response_complete", "response_started"):
        assert f"self.{name}" in cycle, name
    assert {"default_headers", "total_requests"} <= vars(ServerState()).keys()
    assert callable(HttpToolsProtocol._start_asgi_task)
    assert {"pause_reading", "resume_reading"} <= vars(FlowControl).keys()
    assert all(status in STATUS_LINE for status in (400, 408, 431, 503, 529))


def test_uvicorn_uses_no_other_method_of_a_transport() -> None:
    source = inspect.getsource(httptools_impl) + inspect.getsource(FlowControl)
    used = {part.partition("(")[0] for part in source.split("transport.")[1:] if "(" in part.split()[0]}
    ours = set(ConnectionTransport.__slots__) | {"is_closing"}
    assert used - {"set_protocol"} <= ours | {"get_extra_info"}, used - ours


def test_uvicorn_calls_the_factory_with_its_parameters() -> None:
    source = inspect.getsource(Server.startup)
    call = source[source.index("config.http_protocol_class(") :].partition(")")[0]
    theirs = [line.partition("=")[0].strip() for line in call.splitlines() if "=" in line]
    ours = inspect.signature(ConnectionFactory.__call__).parameters
    assert theirs == [name for name in ours if name != "self"]


def test_workers_get_the_factory_by_pickle(config: uvicorn.Config) -> None:
    assert isinstance(pickle.loads(pickle.dumps(ConnectionFactory(ServerLimits()))), ConnectionFactory)


def test_half_of_the_file_descriptors_are_left_for_upstreams() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert default_connections() == (None if soft == resource.RLIM_INFINITY else soft // 2)


def test_the_room_needs_only_the_extra_server() -> None:
    for file in Path(inspect.getfile(ServerConnection)).parent.glob("*.py"):
        assert "import click" not in file.read_text()
