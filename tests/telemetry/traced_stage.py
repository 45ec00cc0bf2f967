"""A gateway that is traced, before two upstreams, over real sockets."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
from support.calls import HEADERS, KEY, UPSTREAM_KEY
from support.gateway import PATIENT, Gateway, forget_health, gateway, without_budget
from support.telemetry import Signals

from bud_asgi import Anthropic, ApiKey, ApiKeys, Limit, Route, Target, hash_api_key
from bud_asgi.clock import Timing
from bud_asgi.testing import StandIn, ThreadedStandIn, Usage, text

TIMING = Timing(tick=0.01, watch_after=0.02, close_within=0.2)
USAGE = Usage(input_tokens=7, output_tokens=5, cache_read_input_tokens=20, cache_creation_input_tokens=10)
REPLY = text("Hi there", usage=USAGE)
LIMITED = "sk-bud-limited"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Stage:
    """A gateway that is traced, and two upstreams: routes to each, to both, and to both with hedging."""

    def __init__(self, here: Gateway, upstreams: Sequence[ThreadedStandIn], signals: Signals) -> None:
        self.here, self.upstreams, self.signals = here, upstreams, signals

    def reset(self) -> None:
        """Forget earlier requests."""
        for upstream in self.upstreams:
            upstream.requests.clear()
            upstream._stand_in._queue.clear()
            upstream.always(REPLY)
        forget_health(self.here)
        self.here.forget()
        self.signals.exporter.clear()

    def post(self, model: str = "solo", *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Send one request, and wait for its record."""
        reply = self.here.post({"model": model, **fields}, headers={**HEADERS, **(headers or {})})
        self.here.account()
        return reply

    def get(self, path: str, method: str = "GET") -> None:
        """Send a request for another path."""
        httpx.request(method, self.here.base_url + path, headers=HEADERS)
        self.here.account()


@contextmanager
def traced_stage(signals: Signals, **options: Any) -> Generator[Stage]:
    """Serve the gateway; `options` are the app's. Only the provider `one` has `trace_context`."""
    keys = [
        ApiKey(name="me", hash=hash_api_key(KEY)),
        ApiKey(name="low", hash=hash_api_key(LIMITED), limits=(Limit("requests", 1),)),
    ]
    both = [Target("one", "m-1"), Target("two", "m-2")]
    routes = [
        Route("pair", to=both),
        Route("hedged", to=both, hedge=0.05),
        Route("second-*", to=["two"]),
        Route("*", to=["one"]),
    ]
    with ExitStack() as stack:
        upstreams = [stack.enter_context(StandIn(strict=False).in_thread()) for _ in range(2)]
        providers = [
            Anthropic(
                name=name,
                api_key=UPSTREAM_KEY,
                base_url=upstream.base_url,
                timeouts=PATIENT,
                trace_context=name == "one",
            )
            for name, upstream in zip(("one", "two"), upstreams, strict=True)
        ]
        settings: dict[str, Any] = {
            "auth": ApiKeys(keys),
            "routes": routes,
            "timing": TIMING,
            "observers": [signals.observer],
        }
        here = stack.enter_context(gateway("", providers=providers, **{**settings, **options}))
        without_budget(here)
        yield Stage(here, upstreams, signals)
