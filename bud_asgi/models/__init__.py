"""The Models API: which models a caller can use."""

from bud_asgi.models.answer import answer_models

__all__ = ["answer_models"]
