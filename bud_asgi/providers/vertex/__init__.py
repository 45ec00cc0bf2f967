"""Claude on Google Vertex AI: rawPredict and Google's access tokens."""

from bud_asgi.providers.vertex.credential import GoogleCredential
from bud_asgi.providers.vertex.provider import Vertex

__all__ = ["GoogleCredential", "Vertex"]
