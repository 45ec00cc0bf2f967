"""The way up: the seam that providers send over, and the engine that fills it."""

from bud_asgi.http.seam import Body, Header, HttpClient, HttpError, HttpReply, HttpRequest, Origin, Timeouts

__all__ = ["Body", "Header", "HttpClient", "HttpError", "HttpReply", "HttpRequest", "Origin", "Timeouts"]
