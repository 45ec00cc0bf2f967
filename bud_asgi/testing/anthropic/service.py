"""Anthropic's own service behind a stand-in: its judge, its friendly answers, its headers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bud_asgi.testing.anthropic.answers import asked_of, default_reply
from bud_asgi.testing.anthropic.messages import made_id
from bud_asgi.testing.anthropic.models import MODELS, Model
from bud_asgi.testing.anthropic.request import Rules, refusal
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, Failure, Rendered, Reply, render
from bud_asgi.testing.server.service import Refusal

MAX_BODY = 32 << 20
"""The service's limit for a request's body ("Errors": 32 MB for the Messages API), in bytes."""


class FirstParty:
    """Anthropic's Messages API. Without `rules` it takes any request that is not too large. `models` are listed."""

    max_body = MAX_BODY

    def __init__(self, rules: Rules | None, models: Sequence[Model] = MODELS) -> None:
        self._rules = rules
        self._models = models

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`."""
        return made_id("req", seed)

    def refuse(self, received: Received) -> Refusal | None:
        """See `Service.refuse`."""
        if not received.complete:
            failure = Failure("request_too_large", "Request exceeds the maximum size")
            return Refusal(failure.message, Reply(status=413, body=failure))
        refused = refusal(received, self._rules) if self._rules else None
        return Refusal(refused.message, Reply(status=refused.status, body=refused.failure)) if refused else None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`."""
        return default_reply(received, self._models)

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`."""
        return render(body, lambda: asked_of(received, seed))

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """What the service adds to every reply ("Rate limits", "Errors"): all of it describes the account."""
        reset = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        headers = [("request-id", received.request_id)]
        headers.append(("anthropic-organization-id", "11111111-2222-4333-8444-555555555555"))
        limits = {"requests": 4000, "tokens": 480000, "input-tokens": 400000, "output-tokens": 80000}
        for name, limit in limits.items():
            headers.append((f"anthropic-ratelimit-{name}-limit", str(limit)))
            headers.append((f"anthropic-ratelimit-{name}-remaining", str(limit - 1 if name == "requests" else limit)))
            headers.append((f"anthropic-ratelimit-{name}-reset", reset))
        return headers
