"""A stand-in for where Google access tokens come from: token endpoint, federation, impersonation, metadata server."""

from bud_asgi.testing.google.service import PROJECT, Google

__all__ = ["PROJECT", "Google"]
