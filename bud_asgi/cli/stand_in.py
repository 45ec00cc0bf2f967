"""`stand-in`: a fake provider on a port, for programs that call the Messages API and for those that write them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

import click
import msgspec

from bud_asgi.cli.listening import listening_problem
from bud_asgi.cli.settings import EXIT_NOT_STARTED, fail
from bud_asgi.cli.terminal import echo_text
from bud_asgi.printable import one_line
from bud_asgi.testing import StandIn, text
from bud_asgi.testing.server.received import Received, json_fields
from bud_asgi.testing.server.replies import Body, Rendered, Reply
from bud_asgi.testing.server.service import Rejection, Service

_POLL = 0.1
"""Seconds between two checks for requests that have been answered."""

_CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", "request-id, retry-after"),
)
_PREFLIGHT = (
    *_CORS,
    ("access-control-allow-methods", "GET, POST"),
    ("access-control-allow-headers", "*, authorization"),
    ("access-control-max-age", "600"),
)


class StandInOptions(msgspec.Struct, frozen=True):
    """The options of `bud-asgi stand-in`. `models` are those that it has; any name without them.

    `reply` is the text of every answer; `None`: an echo of the question. `delay` is the seconds before each event of a
    stream.
    """

    port: int
    api_key: str
    models: Sequence[str]
    reply: str | None
    delay: float


class OpenToBrowsers:
    """A service that pages of any origin may call: it answers the preflight requests of browsers (CORS)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.max_body = service.max_body

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`."""
        return self._service.request_id(seed)

    def check(self, received: Received) -> Rejection | None:
        """See `Service.check`."""
        if received.method == b"OPTIONS" and received.values("access-control-request-method"):
            return Rejection("a preflight request", Reply(status=204, headers=_PREFLIGHT))
        return self._service.check(received)

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`."""
        return self._service.answer(received)

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`."""
        return self._service.render(body, received, seed)

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`."""
        return [*self._service.headers(received, reply), *_CORS]


def run_stand_in(options: StandInOptions) -> None:
    """Serve until SIGINT or SIGTERM, and write a line to stdout for each request."""
    asyncio.run(_run(options))


async def _run(options: StandInOptions) -> None:
    ended = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, ended.set)
    stand_in = StandIn(api_key=options.api_key, models=options.models or None, port=options.port)
    stand_in.service = OpenToBrowsers(stand_in.service)
    stand_in.always(_reply(options, stand_in.service))
    try:
        async with stand_in:
            click.echo(f"ANTHROPIC_BASE_URL={stand_in.base_url}\nANTHROPIC_API_KEY={options.api_key}")
            echo_text("(a stand-in for Anthropic's API: it runs no model and costs nothing; Ctrl-C stops it)", err=True)
            await _show_requests(stand_in, ended)
    except OSError as error:
        fail(listening_problem(f"127.0.0.1:{options.port}", error), EXIT_NOT_STARTED)


async def _show_requests(stand_in: StandIn, ended: asyncio.Event) -> None:
    """Write a line for each request once it is answered, and keep nothing of its body."""
    shown = 0
    while not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _POLL)
        for received in stand_in.requests[shown:]:
            if not (received.done or received.aborted):
                break
            shown += 1
            _show(received)
            received.body = b""


def _show(received: Received) -> None:
    fields = json_fields(received)
    words = [received.method.decode("latin-1"), received.path.decode("latin-1"), str(fields.get("model", ""))]
    words += ["stream"] if fields.get("stream") is True else []
    words += ["(client gone)"] if received.aborted else []
    words += [f"(refused: {received.refusal})"] if received.refusal else []
    click.echo(one_line(" ".join(filter(None, words))), err=True)


def _reply(options: StandInOptions, service: Service) -> Callable[[Received], Reply]:
    def reply(received: Received) -> Reply:
        is_message = received.path == b"/v1/messages"
        made = text(options.reply) if options.reply is not None and is_message else service.answer(received)
        return msgspec.structs.replace(made, delay=options.delay) if options.delay else made

    return reply
