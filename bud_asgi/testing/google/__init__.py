"""A stand-in for Google's token services: token endpoint, federation, impersonation, metadata server."""

from bud_asgi.testing.google.accounts import Federation, ServiceAccount, impersonation_url
from bud_asgi.testing.google.errors import google_error, google_html, oauth_error
from bud_asgi.testing.google.service import PROJECT, Google
from bud_asgi.testing.google.tokens import CLOUD_PLATFORM, Token, Tokens

__all__ = [
    "CLOUD_PLATFORM",
    "PROJECT",
    "Federation",
    "Google",
    "ServiceAccount",
    "Token",
    "Tokens",
    "google_error",
    "google_html",
    "impersonation_url",
    "oauth_error",
]
