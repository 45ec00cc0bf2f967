"""What a request looks like to httpx or httpx2: the classes of whichever the host's client is made of.

Neither is imported here: a client or transport that is handed in has brought its own.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, cast

from bud_asgi.http.seam import Body, HttpRequest
from bud_asgi.http.wire import check, content_length, pieces, says_length

if TYPE_CHECKING:
    import httpx

Trace = Callable[[str, object], Awaitable[None]]
"""What httpcore tells of its steps to: the `trace` extension of a request."""


class Upload:
    """A request body for httpx, piece by piece; it can be sent again, and tells of its pieces as they are asked for.

    httpx asks for a piece when the one before is with the transport, and for one more after the last.
    """

    def __init__(self, body: Body, asked: Callable[[bool], None]) -> None:
        self._body = body
        self._asked = asked

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces, none of them empty."""
        for piece in pieces(b"", self._body):
            self._asked(False)
            if data := piece[0] if len(piece) == 1 and isinstance(piece[0], bytes) else b"".join(piece):
                yield data
        self._asked(True)

    async def aclose(self) -> None:
        """Nothing to close: the buffers are the caller's."""


class Library:
    """httpx or httpx2. A request of the one is no request to the other."""

    def __init__(self, source: object) -> None:
        """Belong to what this client or transport belongs to; raises `TypeError` for what is neither's."""
        roots = (kind.__module__.partition(".")[0] for kind in type(source).__mro__)
        name = next((root for root in roots if root in {"httpx", "httpx2"}), None)
        if name is None or not hasattr(source, "aclose"):
            raise TypeError(
                "hand in an httpx.AsyncClient, an async transport of httpx or httpx2, or a function that makes one; "
                f"this is a {type(source).__name__}"
            )
        module = sys.modules[name]
        self._invalid = cast("type[Exception]", module.InvalidURL)
        self._request = cast("type[httpx.Request]", module.Request)
        self._stream = cast(
            "Callable[[Body, Callable[[bool], None]], httpx.AsyncByteStream]",
            type("HttpxUpload", (Upload, module.AsyncByteStream), {}),
        )
        # httpx quotes what it finds in a path, and a signature covers what was there before.
        target = property(lambda url: url.target)  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
        self._url = cast("Callable[[str], httpx.URL]", type("RawURL", (module.URL,), {"raw_path": target}))

    def request(self, request: HttpRequest, trace: Trace, asked: Callable[[bool], None]) -> httpx.Request:
        """The request with these headers and no others, and no time limit of httpx's but the one for connecting.

        Raises `ValueError` for one that can't be written.
        """
        check(request)
        origin = request.origin
        scheme = "https" if origin.tls else "http"
        if not request.target.startswith(b"/"):
            raise ValueError("the request target is no path")
        try:
            url = self._url(f"{scheme}://{origin.authority.decode('ascii')}{request.target.decode('ascii')}")
        except self._invalid:
            # It might quote the target.
            raise ValueError("the request target is refused as a URL") from None
        headers = [(b"host", origin.authority), *request.headers]
        length = content_length(request.body)
        if says_length(request.method, length):
            headers.append((b"content-length", b"%d" % length))
        made = self._request(
            request.method.decode("ascii"),
            url,
            headers=headers,
            stream=self._stream(request.body, asked),
            extensions={
                "timeout": {"connect": request.timeouts.connect, "read": None, "write": None, "pool": None},
                "trace": trace,
            },
        )
        url.__dict__["target"] = request.target
        made.url = url
        return made
