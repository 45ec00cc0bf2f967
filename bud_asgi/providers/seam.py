"""The provider seam: a dialect of pure functions, and a credential that is applied just before sending."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

import msgspec

from bud_asgi.attempt import Attempt
from bud_asgi.exchange import Principal
from bud_asgi.http import HttpReply, HttpRequest, Origin
from bud_asgi.protocol.headers import HeaderNames, Headers
from bud_asgi.protocol.patterns import base_name
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.compat.needs import Loss, Needs
from bud_asgi.providers.errors import TranslatedUpstreamError
from bud_asgi.providers.refresher import RefreshStatus

COUNTING_UNSUPPORTED = "The upstream of this model does not count tokens."
"""The message of the 404 for a model whose tokens cannot be counted."""

NO_MESSAGE = "The upstream refused the request without a message."
"""The message of an upstream error that has none of its own."""


class ProviderRequest(msgspec.Struct, frozen=True, gc=False):
    """A decoded Messages or token counting request, on its way to a provider.

    `headers` are the client's, by lower-case name. `model` is the upstream model; `None` for the one in the request.
    `request_id` is the gateway's, for error bodies that the provider writes. `hops` is the header with the ids of the
    gateways that the request has been through; the sender adds it. `attempt` is the record of this try, for what only
    the provider can see in the reply. `names` is what the names of the client's headers show, where it is known.
    """

    request: MessagesRequest
    headers: Headers
    model: str | None = None
    request_id: str = ""
    hops: bytes = b""
    attempt: Attempt | None = None
    names: HeaderNames | None = None

    @property
    def upstream_model(self) -> str:
        """The name of the model at the provider: the upstream model, or the client's without a context window."""
        return base_name(self.request.model) if self.model is None else self.model

    def __repr__(self) -> str:
        """Leave out the headers: they contain credentials."""
        return f"ProviderRequest({self.request!r}, model={self.model!r}, request_id={self.request_id!r})"


class EncodedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request in the provider's own form, without credential. `dropped` names the fields and betas left out of it."""

    request: HttpRequest
    dropped: tuple[str, ...] = ()


class Credential(Protocol):
    """Authenticates requests to an upstream."""

    @property
    def is_operators(self) -> bool:
        """Whether it is the operator's, not the client's. Only the client may see errors about its own credential."""
        ...

    async def apply(self, request: HttpRequest, client: Headers) -> HttpRequest:
        """Return the request with the credential, the last edit before it is sent. `client` has the client's headers.

        Raises `UpstreamUnavailable` if no credential is available.
        """
        ...

    async def refresh(self, refused: HttpRequest) -> bool:
        """Return whether there is another credential than the one that the upstream refused, fetching it if necessary.

        `refused` is the request as `apply` returned it. The caller sends once more, with `apply`, if this is true.
        """
        ...

    def redact(self, text: str) -> str:
        """Return a text from the upstream with the credential removed, for the log."""
        ...


@runtime_checkable
class RefreshedCredential(Protocol):
    """A credential that is fetched and refreshed, and can report its state."""

    def status(self) -> RefreshStatus | None:
        """Its state; `None` if it is fixed. Starts nothing."""
        ...


class Traits(msgspec.Struct, frozen=True):
    """How a provider differs from others: its attribute `traits`, which is optional.

    `edits_bodies`: `encode` changes values inside the body, which takes long for a large one, and so runs in a thread
    then. `has_own_bounds`: it may serve models of other vendors, whose bounds (`temperature`, `top_k`) only it knows.
    `allowed_fields`: the account fields that its options let clients set, by their names in `ACCOUNT_FIELDS`.
    `per_principal`: its credential depends on the caller; it is a `PrincipalProvider`. `loss_of` is a pure function
    that returns what a request would lose there: routing prefers targets that lose nothing. `None` where nothing can be
    lost. `origins` are the servers that it sends to: their connections are closed after a `reload()` without it.
    `service` is the service called, by its name in OpenTelemetry's conventions (`gen_ai.provider.name`).
    """

    edits_bodies: bool = False
    has_own_bounds: bool = False
    allowed_fields: tuple[str, ...] = ()
    per_principal: bool = False
    loss_of: Callable[[ProviderRequest, Needs], Loss] | None = None
    service: str = "anthropic"
    origins: tuple[Origin, ...] = ()


_USUAL = Traits()


def traits_of(provider: Provider) -> Traits:
    """The traits of a provider, or the usual ones."""
    traits: object = getattr(provider, "traits", None)
    return traits if isinstance(traits, Traits) else _USUAL


class Provider(Protocol):
    """One upstream service, with a name that is unique among the providers of an app."""

    @property
    def name(self) -> str:
        """The name that routes and logs refer to it by."""
        ...

    @property
    def credential(self) -> Credential:
        """The credential for its requests."""
        ...

    @property
    def models(self) -> Sequence[str]:
        """The ids of the models that it is known to serve; empty if it may serve any."""
        ...

    def models_request(self) -> HttpRequest | None:
        """Return the request for the upstream's model list, without credential; `None` if it has no such list."""
        ...

    def encode(self, call: ProviderRequest) -> EncodedRequest:
        """Encode a request in the provider's own form. Pure. Raises `InvalidRequest` for one that it cannot express."""
        ...

    def decode(self, call: ProviderRequest, reply: HttpReply) -> HttpReply:
        """Return a reply of status 200 in the Anthropic format: headers, JSON or SSE bytes. Pure; owns the reply."""
        ...

    def translate_error(
        self, call: ProviderRequest, status: int, headers: Headers, body: bytes
    ) -> TranslatedUpstreamError | None:
        """Translate an error reply; `None` if its body is an Anthropic error already, or is not a known error. Pure."""
        ...


class PrincipalProvider(Provider, Protocol):
    """A provider whose credential depends on the caller. Its trait `per_principal` is true."""

    async def for_principal(self, principal: Principal) -> Provider:
        """Return the provider with the credential of a principal. Raises `GatewayError` if there is none."""
        ...


def serves_all(provider: Provider) -> bool:
    """Whether all callers share its account: what one of them meets there, a limit for example, the others meet too."""
    return provider.credential.is_operators and not traits_of(provider).per_principal


async def for_principal(provider: Provider, principal: Principal | None) -> Provider:
    """Return the provider with the credential for a caller; the same one where it does not depend on it."""
    if principal is None or not traits_of(provider).per_principal:
        return provider
    return await cast("PrincipalProvider", provider).for_principal(principal)
