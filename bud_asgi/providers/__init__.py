"""Providers: each one is a dialect and a credential; one sender serves them all."""

from bud_asgi.providers.anthropic import Anthropic
from bud_asgi.providers.bedrock import AwsCredential, Bedrock
from bud_asgi.providers.errors import (
    TranslatedUpstreamError,
    UpstreamErrorResponse,
    UpstreamUnavailable,
    unavailable,
)
from bud_asgi.providers.options import check_provider, check_providers
from bud_asgi.providers.seam import Credential, EncodedRequest, Provider, ProviderRequest
from bud_asgi.providers.sender import hide_credential_error, send
from bud_asgi.providers.vertex import GoogleCredential, Vertex

__all__ = [
    "Anthropic",
    "AwsCredential",
    "Bedrock",
    "Credential",
    "EncodedRequest",
    "GoogleCredential",
    "Provider",
    "ProviderRequest",
    "TranslatedUpstreamError",
    "UpstreamErrorResponse",
    "UpstreamUnavailable",
    "Vertex",
    "check_provider",
    "check_providers",
    "hide_credential_error",
    "send",
    "unavailable",
]
