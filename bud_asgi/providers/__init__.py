"""Providers: each one is a dialect and a credential; one sender serves them all."""

from bud_asgi.protocol.errors import InvalidRequest, NotFound, RequestTooLarge
from bud_asgi.protocol.headers import Headers
from bud_asgi.protocol.request import MessagesRequest
from bud_asgi.providers.anthropic import Anthropic, AnthropicProvider
from bud_asgi.providers.bedrock import AwsCredential, Bedrock
from bud_asgi.providers.compat.needs import NO_LOSS, Loss, Needs, needs_of
from bud_asgi.providers.error_replies import authentication_failed, hide_credential_error, shown_in_log
from bud_asgi.providers.errors import (
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    unavailable,
)
from bud_asgi.providers.hops import gateway_id, with_hops
from bud_asgi.providers.options import check_provider, check_providers
from bud_asgi.providers.seam import (
    Credential,
    EncodedRequest,
    PrincipalProvider,
    Provider,
    ProviderRequest,
    RefreshedCredential,
    Traits,
    for_principal,
    serves_all,
    traits_of,
)
from bud_asgi.providers.sender import check_bounds, send
from bud_asgi.providers.vertex import GoogleCredential, Vertex

__all__ = [
    "NO_LOSS",
    "Anthropic",
    "AnthropicProvider",
    "AwsCredential",
    "Bedrock",
    "Credential",
    "EncodedRequest",
    "GoogleCredential",
    "Headers",
    "InvalidRequest",
    "Loss",
    "MessagesRequest",
    "Needs",
    "NotFound",
    "PrincipalProvider",
    "Provider",
    "ProviderRequest",
    "RefreshedCredential",
    "RequestTooLarge",
    "Traits",
    "TranslatedUpstreamError",
    "UpstreamErrorResponse",
    "UpstreamUnavailable",
    "Vertex",
    "authentication_failed",
    "check_bounds",
    "check_provider",
    "check_providers",
    "for_principal",
    "gateway_id",
    "hide_credential_error",
    "needs_of",
    "send",
    "serves_all",
    "shown_in_log",
    "traits_of",
    "unavailable",
    "with_hops",
]
