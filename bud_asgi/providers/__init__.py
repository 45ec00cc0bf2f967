"""How to ask: each provider is a dialect and a credential, and one sender serves them all."""

from bud_asgi.providers.anthropic import Anthropic
from bud_asgi.providers.failures import UpstreamFailed, UpstreamRefused, failure_of
from bud_asgi.providers.refusal import Refusal, judge_refusal
from bud_asgi.providers.seam import Call, Credential, Provider, Written
from bud_asgi.providers.sender import send

__all__ = [
    "Anthropic",
    "Call",
    "Credential",
    "Provider",
    "Refusal",
    "UpstreamFailed",
    "UpstreamRefused",
    "Written",
    "failure_of",
    "judge_refusal",
    "send",
]
