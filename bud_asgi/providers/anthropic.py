"""Anthropic's own service, and any server that speaks its format at another base URL.

Wire facts: vendor pages "API overview", "Create a Message", "Errors".
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Literal

import msgspec

from bud_asgi.catalogue import served_at
from bud_asgi.http import Header, HttpReply, HttpRequest, Timeouts
from bud_asgi.protocol.headers import Headers, credential_headers, forwarded_headers
from bud_asgi.providers.base_url import parse_base_url
from bud_asgi.providers.failures import TranslatedUpstreamError
from bud_asgi.providers.seam import Credential, EncodedRequest, ProviderRequest
from bud_asgi.secret import Secret

BASE_URL = "https://api.anthropic.com"
"""The service itself."""

_OWN_HEADERS: tuple[Header, ...] = (
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),  # bytes are relayed as they come: nothing here decompresses
    (b"content-type", b"application/json"),
    (b"user-agent", b"bud_asgi"),
)
_LISTING_HEADERS: tuple[Header, ...] = (
    *(line for line in _OWN_HEADERS if line[0] != b"content-type"),
    (b"anthropic-version", b"2023-06-01"),
)
_LISTING = b"/v1/models?beta=true&limit=1000" + b"".join(
    b"&lifecycle%%5B%%5D=%b" % lifecycle for lifecycle in (b"active", b"deprecated", b"retired")
)
_LISTING_TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, silence=5.0)


class ApiKeyCredential:
    """A key that does not change, in the header that the upstream takes it in. `None` sends no credential."""

    is_operators = True

    def __init__(self, api_key: Secret | None, header: Literal["x-api-key", "bearer"]) -> None:
        self._api_key = api_key
        self._line: tuple[Header, ...] = ()
        if api_key is not None and header == "bearer":
            self._line = ((b"authorization", b"Bearer " + api_key.reveal().encode()),)
        elif api_key is not None:
            self._line = ((b"x-api-key", api_key.reveal().encode()),)

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """The request with the key."""
        return request.with_headers(self._line)

    async def refresh(self, refused: HttpRequest) -> bool:
        """There is no other key."""
        return False

    def redact(self, text: str) -> str:
        """Blot the key out."""
        return self._api_key.redact(text) if self._api_key else text


class ClientCredential:
    """The client's own credential, passed through in the headers that it came in."""

    is_operators = False

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """The request with what the client proved itself by."""
        return request.with_headers(credential_headers(client))

    async def refresh(self, refused: HttpRequest) -> bool:
        """Only the client can get another."""
        return False

    def redact(self, text: str) -> str:
        """Nothing of ours is in it."""
        return text


class Anthropic:
    """Anthropic's Messages API, or a server that speaks it (vLLM, Ollama, llama.cpp, a cloud's front end).

    `api_key` goes upstream as `x-api-key`, or as a bearer token with `auth="bearer"`; only a server at another
    `base_url` may do without. With `auth="client"` there is none: the client's own credential is passed through, and
    so is what the upstream says of it. `/v1/messages` is appended to the path of `base_url`. `tls` replaces the default
    context (system authorities, verified). `timeouts` are in seconds. `trace_context` sends the client's `traceparent`
    and `tracestate` on. Raises `ValueError` for what could not be called.
    """

    def __init__(
        self,
        *,
        api_key: Secret | str | None = None,
        base_url: str = BASE_URL,
        name: str = "anthropic",
        auth: Literal["x-api-key", "bearer", "client"] = "x-api-key",
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        trace_context: bool = False,
    ) -> None:
        if not name:
            raise ValueError("a provider must have a name")
        if auth == "client" and api_key is not None:
            raise ValueError(f"the provider {name!r} passes the client's credential through: it can have no api_key")
        if api_key is None and base_url == BASE_URL and auth != "client":
            raise ValueError(f"the provider {name!r} needs an api_key")
        self.name = name
        self.base_url = base_url
        self.credential: Credential = (
            ClientCredential()
            if auth == "client"
            else ApiKeyCredential(Secret(api_key) if isinstance(api_key, str) else api_key, auth)
        )
        self._origin, path = parse_base_url(base_url, tls)
        self._path = path
        self._target = f"{path}/v1/messages".encode()
        self._trace_context = trace_context
        self._timeouts = timeouts or Timeouts()

    def __repr__(self) -> str:
        return f"Anthropic(name={self.name!r}, base_url={self.base_url!r})"

    @property
    def models(self) -> Sequence[str]:
        """Those of Anthropic's own service; another server says itself what it has."""
        return served_at("anthropic") if self.base_url == BASE_URL else ()

    def models_request(self) -> HttpRequest | None:
        """The request for the list of models, unless only the client could make it."""
        if not self.credential.is_operators:
            return None
        return HttpRequest(
            self._origin, b"GET", self._path.encode() + _LISTING, _LISTING_HEADERS, timeouts=_LISTING_TIMEOUTS
        )

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """The request as it came; only a mapped model is replaced."""
        request, model = call.request, call.model
        renamed = model is not None and model != request.model
        more = forwarded_headers(
            call.headers, account=not self.credential.is_operators, trace_context=self._trace_context
        )
        return EncodedRequest(
            HttpRequest(
                origin=self._origin,
                method=b"POST",
                target=self._target + b"/count_tokens" if request.counting else self._target,
                headers=(*_OWN_HEADERS, *more),
                body=request.replacing("model", msgspec.json.encode(model)) if renamed else request.body,
                timeouts=self._timeouts,
            )
        )

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """The reply as it came."""
        return reply

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """Nothing: its errors speak for themselves."""
        return None
