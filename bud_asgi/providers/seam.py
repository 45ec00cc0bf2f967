"""The seam of the providers: a dialect of pure functions, and a credential hook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from bud_asgi.http import HttpReply, HttpRequest
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.failures import TranslatedUpstreamError


class ProviderRequest(msgspec.Struct, frozen=True, gc=False):
    """What is asked of a provider: a judged request, for a Message or for the count of its tokens.

    `headers` are the client's, by lower-case name. `model` is the upstream's name for the model, `None` for the one in
    the request. `request_id` is ours, for what the provider has to say in the envelope.
    """

    request: MessagesRequest
    headers: Headers
    model: str | None = None
    request_id: str = ""


class EncodedRequest(msgspec.Struct, frozen=True, gc=False):
    """A call in the provider's own form, without credential. `dropped` names the fields and betas left out of it."""

    request: HttpRequest
    dropped: tuple[str, ...] = ()


class Credential(Protocol):
    """What proves to an upstream that the gateway, or its client, may call it."""

    @property
    def is_operators(self) -> bool:
        """Whether it is the gateway's own. What the upstream says of a client's own is for the client."""
        ...

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """The request with its credential, as the last edit before it is sent. `client` are the client's headers.

        Raises `UpstreamUnavailable` when there is no credential to be had.
        """
        ...

    async def refresh(self, refused: HttpRequest) -> bool:
        """Return whether there is another credential than the one that the upstream refused, fetching it if necessary.

        `refused` is the request as `apply` returned it. The caller sends once more, with `apply`, if this is true.
        """
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

    def models_request(self) -> HttpRequest | None:
        """The request for the upstream's own list of models, without credential; `None` where there is none."""
        ...

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """The call in the provider's own form. Pure. Raises `InvalidRequest` for what it can't be asked."""
        ...

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """A reply of status 200 as one in the Anthropic format: headers, JSON or SSE bytes. Pure; owns the reply."""
        ...

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """What a reply of another status means; `None` for an error that speaks for itself, in the envelope. Pure."""
        ...
