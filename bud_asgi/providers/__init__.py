"""How to ask: each provider is a dialect and a credential, and one sender serves them all."""

from bud_asgi.providers.anthropic import Anthropic
from bud_asgi.providers.failures import UpstreamFailed, failure_of
from bud_asgi.providers.seam import Credential, Provider
from bud_asgi.providers.sender import send

__all__ = ["Anthropic", "Credential", "Provider", "UpstreamFailed", "failure_of", "send"]
