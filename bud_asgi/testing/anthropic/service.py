"""Anthropic's own service: its checks, default replies and headers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bud_asgi.testing.anthropic.check_request import Rules, check_request
from bud_asgi.testing.anthropic.default_replies import default_reply, parse_request
from bud_asgi.testing.anthropic.errors import Rejected
from bud_asgi.testing.anthropic.messages import make_id
from bud_asgi.testing.anthropic.models import MODELS, Model
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, Rendered, Reply, render
from bud_asgi.testing.server.service import Rejection

MAX_BODY = 32 << 20
"""The largest body of a request ("Errors": 32 MB for the Messages API), in bytes."""


class AnthropicApi:
    """Anthropic's API. Without `rules` it accepts any request that is not too large. `models` are listed.

    `signer` signs the thinking blocks of its replies.
    """

    max_body = MAX_BODY

    def __init__(self, rules: Rules | None, models: Sequence[Model] = MODELS, signer: str = "") -> None:
        self._rules = rules
        self._models = models
        self._signer = signer

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`."""
        return make_id("req", seed)

    def check(self, received: Received) -> Rejection | None:
        """See `Service.check`."""
        if not received.complete:
            return Rejected(413, "request_too_large", "Request exceeds the maximum size").rejection
        try:
            if self._rules:
                check_request(received, self._rules)
        except Rejected as rejected:
            return rejected.rejection
        return None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`."""
        return default_reply(received, self._models)

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`."""
        return render(body, lambda: parse_request(received, seed, self._signer))

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`. They describe the account ("Rate limits", "Errors")."""
        reset = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        headers = [("request-id", received.request_id)]
        headers.append(("anthropic-organization-id", "11111111-2222-4333-8444-555555555555"))
        limits = {"requests": 4000, "tokens": 480000, "input-tokens": 400000, "output-tokens": 80000}
        for name, limit in limits.items():
            headers.append((f"anthropic-ratelimit-{name}-limit", str(limit)))
            headers.append((f"anthropic-ratelimit-{name}-remaining", str(limit - 1 if name == "requests" else limit)))
            headers.append((f"anthropic-ratelimit-{name}-reset", reset))
        return headers
