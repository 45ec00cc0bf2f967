"""The seam of the providers: a dialect of pure functions, and a credential hook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bud_asgi.http import HttpReply, HttpRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.messages import MessagesRequest


class Credential(Protocol):
    """What proves to an upstream that the gateway, or its client, may call it."""

    @property
    def ours(self) -> bool:
        """Whether it is the gateway's own. What the upstream says of a client's own is for the client."""
        ...

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """The request with its credential, as the last edit before it is sent. `client` are the client's headers."""
        ...

    async def refresh(self) -> bool:
        """Get a fresh credential after the upstream refused this one; `False` if there is none to be had."""
        ...

    def redact(self, text: str) -> str:
        """A text of the upstream's with the credential blotted out, for the log."""
        ...


class Provider(Protocol):
    """One service that is called, under a name that is its own among the providers of an app."""

    @property
    def name(self) -> str:
        """The name that routes and accounts know it by."""
        ...

    @property
    def credential(self) -> Credential:
        """What proves the gateway to it."""
        ...

    @property
    def models(self) -> Sequence[str]:
        """The ids of the models that are known to be served there; none for a server that could serve any."""
        ...

    def listing(self) -> HttpRequest | None:
        """The request for the upstream's own list of models, without credential; `None` where there is none."""
        ...

    def write(self, request: MessagesRequest, headers: Headers, model: str | None) -> HttpRequest:
        """The judged request, for a Message or for the count of its tokens, in the provider's own form. Pure.

        It comes without credential. `headers` are the client's, by lower-case name. `model` is the upstream's name for
        the model, `None` for the one in the request. Raises `InvalidRequest` for what the provider can't be asked.
        """
        ...

    def read(self, reply: HttpReply) -> HttpReply:
        """The provider's reply as one in the Anthropic format: status, headers, JSON or SSE bytes. Pure."""
        ...
