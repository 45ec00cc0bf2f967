"""Requests for httpx or httpx2, made with the classes of whichever library the host's client comes from.

Neither is imported here: the caller that passes in a client or transport has imported its library already.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, cast

from bud_asgi.http.fields import header_block
from bud_asgi.http.seam import Body, HttpRequest
from bud_asgi.http.wire import check_target, content_length, needs_content_length, write_batches

if TYPE_CHECKING:
    import httpx

TraceCallback = Callable[[str, Mapping[str, object]], Awaitable[None]]
"""The callback that httpcore reports its progress to: the `trace` extension of a request."""


class Upload:
    """A request body for httpx, in chunks; it can be sent again.

    httpx requests a chunk once the transport has accepted the one before it. Each request is reported to
    `on_progress`, with `True` when no chunk is left.
    """

    def __init__(self, body: Body, on_progress: Callable[[bool], None]) -> None:
        self._body = body
        self._on_progress = on_progress

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks, none of them empty."""
        for batch in write_batches(b"", self._body):
            self._on_progress(False)
            if chunk := batch[0] if len(batch) == 1 and isinstance(batch[0], bytes) else b"".join(batch):
                yield chunk
        self._on_progress(True)

    async def aclose(self) -> None:
        """Do nothing: the buffers belong to the caller."""


class Library:
    """The classes of httpx or of httpx2; the two do not accept each other's requests."""

    def __init__(self, source: object) -> None:
        """Use the library of this client or transport; raises `TypeError` if it comes from neither."""
        roots = (kind.__module__.partition(".")[0] for kind in type(source).__mro__)
        name = next((root for root in roots if root in {"httpx", "httpx2"}), None)
        if name is None or not hasattr(source, "aclose"):
            raise TypeError(
                "expected an httpx.AsyncClient, an async transport of httpx or httpx2, or a function that returns one; "
                f"got a {type(source).__name__}"
            )
        module = sys.modules[name]
        self._invalid = cast("type[Exception]", module.InvalidURL)
        self._request = cast("type[httpx.Request]", module.Request)
        self._stream = cast(
            "Callable[[Body, Callable[[bool], None]], httpx.AsyncByteStream]",
            type("HttpxUpload", (Upload, module.AsyncByteStream), {}),
        )
        # httpx would percent-encode the path again, and so break a signature over it.
        target = property(lambda url: url.target)  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
        self._url = cast("Callable[[str], httpx.URL]", type("RawURL", (module.URL,), {"raw_path": target}))

    def request(self, request: HttpRequest, trace: TraceCallback, on_progress: Callable[[bool], None]) -> httpx.Request:
        """Build the request with exactly these headers, and with no timeout of httpx's own but that for connecting.

        Raises `ValueError` for an invalid request.
        """
        check_target(request)
        fields = header_block(request.headers)
        origin = request.origin
        scheme = "https" if origin.tls else "http"
        if not request.target.startswith(b"/"):
            raise ValueError("the request target does not begin with a slash")
        try:
            url = self._url(f"{scheme}://{origin.authority.decode('ascii')}{request.target.decode('ascii')}")
        except self._invalid:
            # The message of httpx may contain the target.
            raise ValueError("httpx does not accept the request target as a URL") from None
        headers = [(b"host", origin.authority), *fields]
        length = content_length(request.body)
        if needs_content_length(request.method, length):
            headers.append((b"content-length", b"%d" % length))
        httpx_request = self._request(
            request.method.decode("ascii"),
            url,
            headers=headers,
            stream=self._stream(request.body, on_progress),
            extensions={
                "timeout": {"connect": request.timeouts.connect, "read": None, "write": None, "pool": None},
                "trace": trace,
            },
        )
        url.__dict__["target"] = request.target
        httpx_request.url = url
        return httpx_request
