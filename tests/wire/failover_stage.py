"""A gateway before five upstreams of three services and three that nothing reaches, and what each of them got."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
from support.calls import MODEL
from support.gateway import PATIENT, Gateway, forget_health, set_timeouts, without_budget
from support.limited import EVERY_KIND, USAGE, Booked, Limited, limited
from support.ports import nowhere

from bud_asgi import Anthropic, Exchange, Route, Target
from bud_asgi.attempt import AttemptEnd
from bud_asgi.clock import Timing
from bud_asgi.http import Timeouts
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.providers.vertex import Vertex
from bud_asgi.testing import Answer, Received, Reply, StandIn, ThreadedStandIn, text
from bud_asgi.testing import bedrock as aws
from bud_asgi.testing import vertex as google_cloud
from bud_asgi.testing.google import PROJECT, Google

ANTHROPIC = ("one", "two", "three")
TIMING = Timing(tick=0.02, watch_after=0.05, close_within=0.2)
SHORT = Timeouts(30.0, 0.25, 0.25)
"""The timeouts of a target that is silent in a test; those of others are too long to be reached."""
SAID = "the reply of the last target"
REPLY = text(SAID, usage=USAGE)
WHOLE = Booked(requests=1, input_tokens=37, output_tokens=11, tokens=48)
"""What is booked for a request that `REPLY` has answered."""


class Stage:
    """The gateway and its upstreams by name. Each test has a caller of its own."""

    def __init__(self, limits: Limited, upstreams: dict[str, ThreadedStandIn]) -> None:
        self.limits, self.upstreams = limits, upstreams
        self.here: Gateway = limits.here

    def reset(self) -> None:
        """Forget the requests and replies of earlier tests."""
        for upstream in self.upstreams.values():
            upstream.requests.clear()
            upstream.refused.clear()
            upstream.always(None)
            upstream._stand_in._queue.clear()
            upstream.drop_connections()  # a reused one that is reset is retried once by the engine
            upstream.wait_connections(0)
        for provider in self.here.messages.providers:
            set_timeouts(provider, PATIENT)
        forget_health(self.here)

    def set(self, **replies: Answer) -> None:
        """Set the reply of upstreams, for every request."""
        providers = {provider.name: provider for provider in self.here.messages.providers}
        for name, reply in replies.items():
            self.upstreams[name].always(reply)
            if isinstance(reply, Reply) and reply.end == "hang":
                set_timeouts(providers[name], SHORT)

    def post(self, caller: str, *targets: str, **fields: Any) -> httpx.Response:
        """Send one request of a caller, whose route has these targets."""
        return self.limits.post(caller, model="-".join(targets), **fields)

    def account(self, caller: str) -> Exchange:
        """The record of the only request of a caller."""
        return self.limits.account(caller)

    def ends(self, caller: str) -> list[tuple[str, AttemptEnd | None]]:
        """The attempts of the only request of a caller: provider and end."""
        return [(attempt.target.provider, attempt.end) for attempt in self.account(caller).attempts]

    def sent(self, name: str) -> list[Received]:
        """What one upstream got."""
        return self.upstreams[name].requests

    def assert_own_dialect(self, *targets: str) -> None:
        """Each of these upstreams got the request once, valid, with its own credential and none of another's."""
        for name in targets:
            if name in self.upstreams:
                (received,) = self.sent(name)
                assert received.refusal is None, (name, received.refusal)
                _assert_own_credential(name, received)
                assert received.json()["messages"] == [{"role": "user", "content": "Hello"}]

    def assert_untouched(self, *targets: str) -> None:
        """None of these upstreams got anything."""
        assert [name for name in targets if self.sent(name)] == []


def key_of(name: str) -> str:
    """The key of an upstream in Anthropic's format."""
    return f"sk-ant-the-key-of-{name}"


def _assert_own_credential(name: str, received: Received) -> None:
    wire = b"\n".join(b"%b: %b" % line for line in received.headers) + received.target + received.body
    for other in ANTHROPIC:
        assert (key_of(other).encode() in wire) is (other == name)
    assert (b"AWS4-HMAC-SHA256" in wire) is (name == "aws")
    assert (b"Bearer " in wire) is (name == "google")
    fields = received.json()
    versions = {"aws": "bedrock-2023-05-31", "google": "vertex-2023-10-16"}
    assert fields.get("anthropic_version") == versions.get(name)
    assert fields.get("model") == (None if name in versions else MODEL)


UNREACHABLE = ("dead", "tls", "dns")
"""Providers that nothing can be sent to: no connection, a certificate of an unknown authority, an unknown host."""


def route_to(*order: str, **options: Any) -> Route:
    """The route that `Stage.post` uses for these targets; `options` are the route's."""
    return Route("-".join(order), to=[Target(name, MODEL) for name in order], **options)


def _routes() -> list[Route]:
    names = (*ANTHROPIC, "aws", "google", *UNREACHABLE)
    orders = [order for count in (1, 2, 3) for order in permutations(names, count)]
    return [route_to(*order) for order in (*orders, ("dead", "one", "two", "three"))]


def _providers(stack: ExitStack, upstreams: dict[str, ThreadedStandIn], service: aws.Bedrock, key_file: Path) -> Any:
    dead = nowhere()
    tls = stack.enter_context(StandIn(api_key="k", tls="unknown-ca").in_thread())
    urls = {name: upstreams[name].base_url for name in ANTHROPIC}
    urls |= {"dead": dead, "tls": tls.base_url, "dns": "http://nowhere.invalid"}
    key = service.keys.issue_temporary()
    cloud: dict[str, Any] = {"timeouts": PATIENT}
    amazon: dict[str, Any] = {"region": service.region, "endpoint": upstreams["aws"].base_url, **cloud}
    amazon |= {"access_key": key.access_key, "secret_key": key.secret_key, "session_token": key.session_token}
    google: dict[str, Any] = {"project": PROJECT, "base_url": upstreams["google"].base_url, **cloud}
    return [
        *(Anthropic(api_key=key_of(name), base_url=url, name=name, timeouts=PATIENT) for name, url in urls.items()),
        Bedrock(name="aws", **amazon),
        Vertex(name="google", service_account_file=key_file, **google),
    ]


@contextmanager
def failover_stage(*, signed: bool = False, **options: Any) -> Generator[Stage]:
    """Serve the gateway, with a route for each sequence of targets, such as `one-aws-two`; `options` are the app's.

    `signed`: each upstream signs thinking blocks by its name, and accepts no others.
    """
    signers = {name: name if signed else None for name in (*ANTHROPIC, "aws", "google")}
    google, service, upstreams = Google(), aws.Bedrock(signer=signers["aws"]), dict[str, ThreadedStandIn]()
    with ExitStack() as stack:
        key_file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "key.json"
        tokens = stack.enter_context(StandIn.of(google).in_thread())
        key_file.write_text(json.dumps(google.account.info(tokens.base_url)))
        for name in ANTHROPIC:
            upstreams[name] = stack.enter_context(StandIn(api_key=key_of(name), signer=signers[name]).in_thread())
        upstreams["aws"] = stack.enter_context(StandIn.of(service).in_thread())
        vertex = google_cloud.Vertex(tokens=google.tokens, signer=signers["google"])
        upstreams["google"] = stack.enter_context(StandIn.of(vertex).in_thread())
        settings: dict[str, Any] = {"timing": TIMING, "routes": _routes(), **options}
        settings["providers"] = _providers(stack, upstreams, service, key_file)
        limits = stack.enter_context(limited(*EVERY_KIND, upstream=upstreams["one"], **settings))
        without_budget(limits.here)
        yield Stage(limits, upstreams)


def without_pings(reply: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, each of two lines and an empty one."""
    assert reply.content.endswith(b"\n\n"), reply.content[-80:]
    events: list[dict[str, Any]] = []
    for block in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return [event for event in events if event["type"] != "ping"]


def assert_whole(reply: httpx.Response, *, stream: bool) -> None:
    """The client got one whole message, that of the target that answered."""
    assert reply.status_code == 200, reply.text
    assert "x-should-retry" not in reply.headers
    if not stream:
        assert [block["text"] for block in reply.json()["content"]] == [SAID]
        return
    events = without_pings(reply)
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert [kinds.count(kind) for kind in ("message_start", "content_block_start", "error")] == [1, 1, 0]
    assert "".join(event["delta"].get("text", "") for event in events if "delta" in event) == SAID
