"""The official SDK's clients, for an app in the same process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from anyio.from_thread import BlockingPortal, start_blocking_portal

if TYPE_CHECKING:
    import anthropic

BASE_URL = "http://gateway"
"""Only the path of a URL counts."""


class AsyncTransport(Protocol):
    """What `MessagesApp.transport` returns: a transport of httpx or httpx2 for async clients."""

    async def handle_async_request(self, request: Any) -> Any:
        """Return the response once its head is there."""
        ...

    async def aclose(self) -> None:
        """End the calls of the running event loop."""
        ...


def async_client(transport: AsyncTransport) -> anthropic.AsyncAnthropic:
    """Make an async client that calls through a transport. Raises `ImportError` without the SDK."""
    sdk = _sdk()
    http = sdk.DefaultAsyncHttpxClient(transport=cast("Any", transport))
    return sdk.AsyncAnthropic(base_url=BASE_URL, api_key="unused", max_retries=0, http_client=http)


@contextmanager
def blocking_clients() -> Generator[Callable[[AsyncTransport], anthropic.Anthropic]]:
    """Yield a function that makes synchronous clients. Their calls run in an event loop in another thread.

    Leaving the block closes them, and ends the loop. Raises `ImportError` without the SDK.
    """
    sdk = _sdk()
    clients: list[anthropic.Anthropic] = []

    def client(transport: AsyncTransport) -> anthropic.Anthropic:
        http = sdk.DefaultHttpxClient(transport=cast("Any", BlockingTransport(transport, portal)))
        clients.append(sdk.Anthropic(base_url=BASE_URL, api_key="unused", max_retries=0, http_client=http))
        return clients[-1]

    with start_blocking_portal(name="bud_asgi clients") as portal:
        try:
            yield client
        finally:
            for one in clients:
                one.close()


class BlockingTransport:
    """A transport for synchronous clients of httpx and httpx2, around one for async clients.

    `portal` leads to the event loop that the calls run in. A response is streamed as it arrives; closing it ends the
    call.
    """

    def __init__(self, transport: AsyncTransport, portal: BlockingPortal) -> None:
        self._transport = transport
        self._portal = portal

    def handle_request(self, request: Any) -> Any:
        """Send a request, and return its response once the head is there."""
        request.read()
        response = self._portal.call(self._transport.handle_async_request, request)
        library = sys.modules[type(request).__module__.partition(".")[0]]
        stream = _stream(library, self._portal, response.stream)
        return library.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    def close(self) -> None:
        """End the calls that are running."""
        self._portal.call(self._transport.aclose)

    def __enter__(self) -> Self:
        """Open nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()


def _stream(library: ModuleType, portal: BlockingPortal, stream: Any) -> object:
    """The body of a response, for a synchronous client."""

    class Stream(library.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            chunks = stream.__aiter__()
            read = partial(portal.call, anext, chunks, None)
            while (chunk := read()) is not None:
                yield chunk

        def close(self) -> None:
            portal.call(stream.aclose)

    return Stream()


def _sdk() -> ModuleType:
    try:
        import anthropic  # noqa: PLC0415 - not needed for the stand-ins
    except ImportError as error:
        raise ImportError("clients of the official SDK need the package anthropic: pip install anthropic") from error
    return anthropic
