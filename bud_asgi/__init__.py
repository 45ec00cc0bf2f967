"""The Anthropic-compatible Messages API as a mountable ASGI app."""

__version__ = "0.1.0"
