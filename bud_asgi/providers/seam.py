"""The seam of the providers: a dialect of pure functions, and a credential hook."""

from __future__ import annotations

from typing import Protocol

from bud_asgi.http import HttpReply, HttpRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.messages import MessagesRequest


class Credential(Protocol):
    """What proves to an upstream that the gateway may call it."""

    async def apply(self, request: HttpRequest) -> HttpRequest:
        """The request with its credential, as the last edit before it is sent."""
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

    def write(self, request: MessagesRequest, headers: Headers, model: str | None) -> HttpRequest:
        """The judged request in the provider's own form, without credential. Pure.

        `headers` are the client's, by lower-case name. `model` is the upstream's name for the model, `None` for the
        one in the request. Raises `InvalidRequest` for what the provider can't be asked.
        """
        ...

    def read(self, reply: HttpReply) -> HttpReply:
        """The provider's reply as one in the Anthropic format: status, headers, JSON or SSE bytes. Pure."""
        ...
