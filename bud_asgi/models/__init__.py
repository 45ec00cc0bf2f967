"""The Models API: which models a caller can use."""

from bud_asgi.models.answer import answer_models
from bud_asgi.models.upstream_lists import UpstreamModelLists

__all__ = ["UpstreamModelLists", "answer_models"]
