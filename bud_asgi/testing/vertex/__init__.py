"""A stand-in for Claude on Google Vertex AI."""

from bud_asgi.testing.vertex.service import Vertex

__all__ = ["Vertex"]
