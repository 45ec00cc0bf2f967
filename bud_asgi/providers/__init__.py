"""How to ask: each provider is a dialect and a credential, and one sender serves them all."""

from bud_asgi.providers.anthropic import Anthropic
from bud_asgi.providers.aws import AwsCredential
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.providers.failures import UpstreamFailed, UpstreamRefused, failure_of
from bud_asgi.providers.google import GoogleCredential
from bud_asgi.providers.refusal import Refusal, judge_refusal
from bud_asgi.providers.seam import Call, Credential, Provider, Written
from bud_asgi.providers.sender import send
from bud_asgi.providers.vertex import Vertex

__all__ = [
    "Anthropic",
    "AwsCredential",
    "Bedrock",
    "Call",
    "Credential",
    "GoogleCredential",
    "Provider",
    "Refusal",
    "UpstreamFailed",
    "UpstreamRefused",
    "Vertex",
    "Written",
    "failure_of",
    "judge_refusal",
    "send",
]
