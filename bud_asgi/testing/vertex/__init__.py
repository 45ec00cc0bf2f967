"""A stand-in for Claude on Google Vertex AI, and the errors of its front end."""

from bud_asgi.testing.vertex.faults import (
    Fault,
    model_not_allowed,
    permission_denied,
    quota_exceeded,
    token_expired,
    unavailable,
)
from bud_asgi.testing.vertex.service import Vertex

__all__ = [
    "Fault",
    "Vertex",
    "model_not_allowed",
    "permission_denied",
    "quota_exceeded",
    "token_expired",
    "unavailable",
]
