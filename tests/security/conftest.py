from __future__ import annotations

from support.fixtures import gateway_and_upstream, here, upstream

__all__ = ["gateway_and_upstream", "here", "upstream"]
