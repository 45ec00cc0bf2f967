"""How to ask: each provider is a dialect and a credential, and one sender serves them all."""

from bud_asgi.providers.anthropic import Anthropic
from bud_asgi.providers.bedrock import AwsCredential, Bedrock
from bud_asgi.providers.failures import TranslatedUpstreamError, UpstreamUnavailable, failure_of
from bud_asgi.providers.refusal import UpstreamErrorResponse, judge_refusal
from bud_asgi.providers.seam import Credential, EncodedRequest, Provider, ProviderRequest
from bud_asgi.providers.sender import send
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
    "failure_of",
    "judge_refusal",
    "send",
]
