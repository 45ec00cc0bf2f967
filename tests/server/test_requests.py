"""The requests of a connection: the scope, the body, the disconnect, and what is not a plain request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from bud_asgi.disconnect import DISCONNECT
from server.connected import EMPTY, GET, POST, START, answering, connected, seeing


async def look(at: Callable[[Scope], Any], request: bytes, **options: Any) -> str:
    async with connected(seeing(at), **options) as client:
        await client.send(request)
        return (await client.read_all()).partition(b"\r\n\r\n")[2].split(b"\r\n")[1].decode()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body, more = body + message["body"], message["more_body"]
    await answering(body)(scope, _nothing, send)


async def _nothing() -> Any:
    return {}


async def test_the_scope_has_the_parts_of_the_specification() -> None:
    def check(scope: Scope) -> bool:
        assert scope["headers"] == [(b"host", b"x"), (b"x-name", b"Value"), (b"x-name", b"")]
        for name in ("headers", "state", "extensions"):
            del scope[name]
        return scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/ä b",
            "raw_path": b"/%C3%A4%20b",
            "query_string": b"q=%20&r",
            "root_path": "",
            "server": None,
            "client": None,
        } | {name: scope[name] for name in ("server", "client")}

    request = b"GET /%C3%A4%20b?q=%20&r HTTP/1.1\r\nHost: x\r\nX-Name:  Value\r\nx-name:\r\n\r\n"
    assert await look(check, request) == "True"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", ("/", b"/", b"")),
        (b"//a/?b?c", ("//a/", b"//a/", b"b?c")),
        (b"/one%2Ftwo%2Dthree", ("/one/two-three", b"/one%2Ftwo%2Dthree", b"")),
        (b"/a#f?b", ("/a", b"/a", b"")),
        (b"http://y:80/a?b", ("/a", b"/a", b"b")),
        (b"http://y", ("/", b"/", b"")),
        (b"http://y?b", ("/", b"/", b"b")),
        (b"*", ("*", b"*", b"")),
    ],
)
async def test_the_path_and_the_query_of_a_target(target: bytes, expected: tuple[str, bytes, bytes]) -> None:
    method = b"OPTIONS" if target == b"*" else b"GET"
    request = method + b" " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    assert await look(lambda scope: (scope["path"], scope["raw_path"], scope["query_string"]), request) == repr(
        expected
    )


async def test_a_root_path_is_part_of_the_path() -> None:
    request = GET.replace(b"/ ", b"/a%20b ")
    shown = await look(lambda s: (s["root_path"], s["path"], s["raw_path"]), request, root_path="/app")
    assert shown == repr(("/app", "/app/a b", b"/app/a%20b"))


async def test_the_version_of_an_old_request() -> None:
    async with connected(seeing(lambda scope: scope["http_version"])) as client:
        await client.send(GET.replace(b"1.1", b"1.0"))
        assert (await client.read_all()).endswith(b"'1.0'")


async def test_each_request_has_a_copy_of_the_state() -> None:
    state: dict[str, Any] = {"a": 1, "b": [1]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["state"]["a"] == 1
        scope["state"]["a"] = 2
        scope["state"]["b"].append(2)
        await answering()(scope, receive, send)

    async with connected(app, state=state) as client:
        for _ in range(2):
            await client.send(GET)
            await client.read(b"Hello")
    assert state == {"a": 1, "b": [1, 2, 2]}


async def test_a_body_is_received_in_one_part_if_it_came_with_the_head() -> None:
    async with connected(echo) as client:
        for _ in range(2):
            await client.send(POST)
            await client.read(b"\r\n\r\nhello")


async def test_a_request_may_arrive_in_any_pieces() -> None:
    request = (
        b"POST /?param=qqqq HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    async with connected(echo) as client:
        for size in (1, 7, 40):
            for start in range(0, len(request), size):
                await client.send(request[start : start + size])
                await asyncio.sleep(0)
            await client.read(b"\r\n\r\nabcde")


@pytest.mark.parametrize("length", [b"5" + b" " * 40, b"\t5\t", b"0" * 5000 + b"5"])
async def test_the_declared_length_may_have_any_valid_form(length: bytes) -> None:
    async with connected(echo) as client:
        await client.send(START.replace(b" 5\r\n", b" " + length + b"\r\nexpect: 100-continue\r\n"))
        await client.read(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.send(b"hello" + GET)
        assert (await client.read(b"hello")).startswith(b"HTTP/1.1 200 ")
        assert (await client.read(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("framing", ["declared", "chunked"])
async def test_a_large_body_is_received_whole_and_the_next_request_after_it(framing: str) -> None:
    body = bytes(range(256)) * 4000
    sent = b"content-length: %d\r\n\r\n%b" % (len(body), body)
    if framing == "chunked":
        sent = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with connected(echo) as client, asyncio.timeout(10):
        sending = asyncio.create_task(client.send(b"POST / HTTP/1.1\r\nhost: x\r\n" + sent + POST))
        answered = await client.read(b"hello")
        await sending
    assert body in answered


async def test_a_large_body_that_the_app_does_not_read_is_not_taken_in() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    size = 8 << 20
    async with connected(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(client.send(b"x" * size))
        await asyncio.sleep(0.1)
        assert not sending.done()
        go.set()
        received, _ = await asyncio.gather(client.read(b"x" * size), sending)
        assert received.startswith(b"HTTP/1.1 200")


async def test_a_disconnect_ends_the_waiting_of_everyone() -> None:
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        ended.extend(message["type"] for message in await asyncio.gather(receive(), receive()))
        await answering()(scope, receive, send)  # to no one

    async with connected(app) as client:
        await client.send(POST)
        await asyncio.sleep(0.05)
        client.sock.close()
        async with asyncio.timeout(30):
            while client.state.tasks:  # noqa: ASYNC110 - the task is the server's
                await asyncio.sleep(0.005)
    assert ended == ["http.disconnect"] * 2


async def test_one_who_stops_waiting_does_not_disturb_another() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        stays, leaves = asyncio.ensure_future(receive()), asyncio.ensure_future(receive())
        await asyncio.sleep(0.02)
        leaves.cancel()
        assert (await stays)["body"] == b"hello"
        await answering(b"Hello")(scope, _nothing, send)

    async with connected(app) as client:
        await client.send(START)
        await asyncio.sleep(0.05)
        await client.send(b"hello")
        await client.read(b"Hello")


async def test_an_app_is_called_back_when_the_client_disconnects_before_its_response_is_complete() -> None:
    called = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][DISCONNECT](called.set)
        await send({"type": "http.response.start", "status": 200, "headers": EMPTY})
        await send({"type": "http.response.body", "body": b"", "more_body": scope["path"] == "/open"})
        if scope["path"] == "/open":
            await called.wait()
            late = asyncio.Event()
            scope["extensions"][DISCONNECT](late.set)
            assert late.is_set()

    async with connected(app) as client:
        await client.send(GET)
        await client.read(b"\r\n\r\n")
    assert not called.is_set()
    async with connected(app) as client:
        await client.send(GET.replace(b"/", b"/open", 1))
        await client.read(b"\r\n\r\n")
        client.sock.close()
        async with asyncio.timeout(30):
            await called.wait()


async def test_behind_the_response_an_app_receives_the_disconnect() -> None:
    received: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        received.append(await receive())

    async with connected(app) as client:
        await client.send(POST)
        await client.read(b"Hello")
        await client.send(POST)
        await client.read(b"Hello")
    assert received == [{"type": "http.disconnect"}] * 2


async def test_a_body_that_comes_behind_its_response_is_dropped() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, _nothing, send)

    async with connected(app) as client:
        for _ in range(3):
            await client.send(START)
            await client.read(b"Hello")
            await client.send(b"hello")


EXPECTING = START.replace(b"host", b"Expect: 100-Continue\r\nhost")


async def test_who_waits_for_100_continue_gets_it_when_the_app_reads() -> None:
    async with connected(echo) as client:
        await client.send(EXPECTING)
        assert await client.read(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        await client.read(b"\r\n\r\nhello")
        await client.send(POST)
        assert b"100 Continue" not in await client.read(b"\r\n\r\nhello")


async def test_nobody_gets_100_continue_from_an_app_that_does_not_read() -> None:
    async with connected(seeing(lambda scope: scope["method"])) as client:
        await client.send(EXPECTING)
        assert (await client.read_all()).startswith(b"HTTP/1.1 200")


async def test_an_old_client_gets_no_100_continue() -> None:
    async with connected(echo) as client:
        await client.send(EXPECTING.replace(b"1.1", b"1.0"))
        await asyncio.sleep(0.05)
        await client.send(b"hello")
        assert b"100 Continue" not in await client.read_all()


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
@pytest.mark.parametrize("ws", ["none", "auto"])
async def test_an_upgrade_is_answered_as_a_plain_request(protocol: bytes, ws: str) -> None:
    upgrading = GET.replace(b"host: x", b"host: x\r\nconnection: upgrade\r\nupgrade: " + protocol)
    async with connected(answering(), ws=ws) as client:
        for _ in range(2):
            await client.send(upgrading)
            assert (await client.read(b"Hello")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("line", [b"G?T / HTTP/1.1", b"GET /?x=y z HTTP/1.1", b"GET / HTTP1.1", b"GET x HTTP/1.1"])
async def test_what_is_not_http_is_refused(line: bytes) -> None:
    async with connected(answering()) as client:
        await client.send(line + b"\r\nhost: x\r\n\r\n")
        received = await client.read_all()
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Invalid HTTP request received" in received


async def test_an_invalid_target_does_not_disturb_the_request_before() -> None:
    async with connected(answering()) as client:
        await client.send(GET + b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n")
        received = await client.read_all()
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")] == [b"", b"200", b"400"]


async def test_requests_beyond_a_hundred_that_wait_are_refused() -> None:
    async with connected(answering()) as client:
        await client.send(GET * 2000)
        received = await client.read_all()
    statuses = [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200"] * 101 + [b"400"]
    assert b"Too many requests were sent on this connection" in received


async def test_uvicorns_limit_of_running_requests_holds() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await answering()(scope, receive, send)

    async with connected(app, limit_concurrency=0) as client:
        await client.send(GET)
        assert (await client.read_all()).startswith(b"HTTP/1.1 529 ")


async def test_a_shutdown_closes_an_idle_connection() -> None:
    async with connected(answering()) as client:
        client.connection.shutdown()
        assert await client.read_all() == b""


async def test_a_shutdown_lets_the_requests_finish() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await answering(b"", *EMPTY)(scope, receive, send)

    async with connected(app) as client:
        await client.send(GET + POST)
        await asyncio.sleep(0.05)
        client.connection.shutdown()
        go.set()
        assert (await client.read_all()).count(b"HTTP/1.1 200") == 2


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize(("reset", "expected"), [(False, "set"), (True, "unset")])
async def test_uvicorns_option_to_reset_context_variables_holds(reset: bool, expected: str) -> None:
    VARIABLE.set("set")
    async with connected(seeing(lambda _: VARIABLE.get()), reset_contextvars=reset) as client:
        await client.send(GET)
        assert expected.encode() in await client.read_all()


def eager(loop: asyncio.AbstractEventLoop, work: Any, **_options: Any) -> Any:
    """A task factory for work that never waits, as `asyncio.eager_task_factory` of later versions of Python is."""
    done = loop.create_future()
    try:
        work.send(None)
    except StopIteration:
        done.set_result(None)
    except Exception as error:  # noqa: BLE001 - kept, as a task does
        done.set_exception(error)
    return done


async def test_an_app_may_end_before_its_task_is_known() -> None:
    async with connected(seeing(lambda scope: scope["path"])) as client:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(eager)
        await client.send(GET)
        answered = await client.read_all()
        loop.set_task_factory(None)
        assert answered.startswith(b"HTTP/1.1 200 ")
        assert not client.state.tasks
