"""Claude models on Google Cloud's Vertex AI behind a stand-in: paths, tokens, body and errors are Vertex AI's.

Sources: "Claude on Vertex AI", Google Cloud's "Use Claude models".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from bud_asgi.testing.anthropic.answers import count_tokens, default_content
from bud_asgi.testing.anthropic.messages import PING, Asked, Content, made_id
from bud_asgi.testing.anthropic.refusals import Refused
from bud_asgi.testing.google.errors import GoogleRefused
from bud_asgi.testing.google.service import NUMBER, PROJECT
from bud_asgi.testing.google.tokens import Tokens
from bud_asgi.testing.server.received import Received, fields_of
from bud_asgi.testing.server.replies import Body, ErrorEvents, Failure, Rendered, Reply, json_body, render
from bud_asgi.testing.server.service import Refusal
from bud_asgi.testing.vertex.errors import route_of
from bud_asgi.testing.vertex.request import BETAS, judge


class Vertex(msgspec.Struct, frozen=True, kw_only=True):
    """Claude on Vertex AI, for `StandIn.of`. A client's base URL is the stand-in's with `/v1` behind it.

    It takes the tokens of a `Google` that are not expired and have the scope `cloud-platform`, and refuses what the
    service refuses, in its words.
    """

    tokens: Tokens
    """What its Google issued: `Google.tokens`."""
    project: str = PROJECT
    number: str = NUMBER
    """The project's number, which a path may name in place of its name."""
    locations: Collection[str] = ("global",)
    """Where it serves. One with a dash in its name is a region, which has no models after generation 4.6."""
    counting_locations: Collection[str] | None = None
    """Where it counts tokens; `None`: where it serves."""
    models: Collection[str] | None = None
    """The names that it knows, such as `claude-haiku-4-5@20251001`; all of that kind if `None`, but none with
    "does-not-exist" in it."""
    betas: Collection[str] = BETAS
    """The beta flags that it knows."""
    callers: Collection[str] | None = None
    """The principals (`Token.principal`) that have the role; all if `None`."""
    quota_projects: Collection[str] = ()
    """Projects besides its own that `x-goog-user-project` may name."""
    max_body: int = 30 << 20
    """The largest body, in bytes."""

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`."""
        return made_id("req_vrtx", seed)

    def refuse(self, received: Received) -> Refusal | None:
        """See `Service.refuse`."""
        if not received.complete:
            failure = Failure("request_too_large", "Request exceeds the maximum allowed number of bytes.")
            return Refusal(failure.message, Reply(status=413, body=failure))
        try:
            judge(received, self)
        except GoogleRefused as refused:
            return refused.refusal
        except Refused as refused:
            return Refusal(refused.message, Reply(status=refused.status, body=refused.failure))
        return None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`."""
        fields, route = fields_of(received), route_of(received)
        if route is not None and route.counting:
            return json_body({"input_tokens": count_tokens(fields)})
        return Reply(body=default_content(fields))

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`. A stream's ping stands right after `message_start`."""
        made = render(body, lambda: _asked(received, seed))
        if isinstance(body, Content | ErrorEvents) and made.stream:
            return msgspec.structs.replace(made, pieces=_pinged_first(made.pieces))
        return made

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`. The model layer's replies have an id; none tells of limits."""
        headers = [
            ("vary", "X-Origin, Referer, Origin, Accept-Encoding"),
            ("server", "scaffolding on HTTPServer2"),
            ("x-xss-protection", "0"),
            ("x-frame-options", "SAMEORIGIN"),
            ("x-content-type-options", "nosniff"),
            ("alt-svc", 'h3=":443"; ma=2592000'),
        ]
        if reply.status >= 400 and isinstance(reply.body, bytes):
            return headers
        return [("request-id", received.request_id), ("x-vertex-ai-internal-prediction-backend", "harpoon"), *headers]


def _asked(received: Received, seed: int) -> Asked:
    fields, route = fields_of(received), route_of(received)
    return Asked(
        model=_claude_name(route.model) if route else "",
        stream=route is not None and route.method == "streamRawPredict",
        input_tokens=count_tokens(fields),
        request_id=received.request_id,
        seed=f"{seed}:{received.number}",
        infix="_vrtx",
    )


def _claude_name(model: str) -> str:
    """The name that replies tell, which is Anthropic's own."""
    name, _, version = model.partition("@")
    return f"{name}-{version}" if version.isdigit() else name


def _pinged_first(events: Iterable[bytes]) -> Iterator[bytes]:
    for event in events:
        if event != PING:
            yield event
        if event.startswith(b"event: message_start\n"):
            yield PING
