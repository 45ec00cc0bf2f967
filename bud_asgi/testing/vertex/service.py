"""Claude on Google Cloud's Vertex AI, for a stand-in: Vertex AI's paths, tokens, bodies and errors.

Sources: "Claude on Vertex AI", Google Cloud's "Use Claude models".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from bud_asgi.testing.anthropic.default_replies import count_tokens, default_content
from bud_asgi.testing.anthropic.errors import Rejected
from bud_asgi.testing.anthropic.messages import PING, Content, ParsedRequest, make_id
from bud_asgi.testing.google.errors import GoogleRejected
from bud_asgi.testing.google.service import NUMBER, PROJECT
from bud_asgi.testing.google.tokens import Tokens
from bud_asgi.testing.server.received import Received, json_fields
from bud_asgi.testing.server.replies import Body, ErrorEvents, Rendered, Reply, json_body, render
from bud_asgi.testing.server.service import Rejection
from bud_asgi.testing.vertex.check_request import BETAS, check_request
from bud_asgi.testing.vertex.route import parse_route


class Vertex(msgspec.Struct, frozen=True, kw_only=True):
    """Claude on Vertex AI, for `StandIn.of`. A client's base URL is the stand-in's, plus `/v1`.

    It accepts the tokens of a `Google` that have the scope `cloud-platform` and have not expired. It rejects what the
    real service rejects, with the same errors.
    """

    tokens: Tokens
    """The tokens of its `Google`: `Google.tokens`."""
    project: str = PROJECT
    number: str = NUMBER
    """The project's number, which a path may have instead of its name."""
    locations: Collection[str] = ("global",)
    """The locations that it serves. A name with a dash is a region, which has no models after generation 4.6."""
    counting_locations: Collection[str] | None = None
    """The locations where it counts tokens; `None`: all that it serves."""
    models: Collection[str] | None = None
    """The names that it knows, such as `claude-haiku-4-5@20251001`. `None`: every valid one without "does-not-exist" in
    it."""
    betas: Collection[str] = BETAS
    """The beta flags that it knows."""
    signer: str | None = None
    """Any name: signs the thinking blocks of its replies. Blocks that another has signed are refused; `None`: none."""
    callers: Collection[str] | None = None
    """The principals (`Token.principal`) that have the role; `None`: all."""
    quota_projects: Collection[str] = ()
    """Projects besides its own that are valid in `x-goog-user-project`."""
    max_body: int = 30 << 20
    """The largest body, in bytes."""

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`."""
        return make_id("req_vrtx", seed)

    def check(self, received: Received) -> Rejection | None:
        """See `Service.check`."""
        if not received.complete:
            return Rejected(413, "request_too_large", "Request exceeds the maximum allowed number of bytes.").rejection
        try:
            check_request(received, self)
        except (GoogleRejected, Rejected) as rejected:
            return rejected.rejection
        return None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`."""
        fields, route = json_fields(received), parse_route(received)
        if route is not None and route.counting:
            return json_body({"input_tokens": count_tokens(fields)})
        return Reply(body=default_content(fields))

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`. The ping of a stream follows `message_start`."""
        rendered = render(body, lambda: _parse_request(received, seed, self.signer or ""))
        if isinstance(body, Content | ErrorEvents) and rendered.stream:
            return msgspec.structs.replace(rendered, pieces=_move_ping(rendered.pieces))
        return rendered

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`. Only replies of the model layer have a request id; none have rate limits."""
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


def _parse_request(received: Received, seed: int, signer: str) -> ParsedRequest:
    fields, route = json_fields(received), parse_route(received)
    return ParsedRequest(
        model=_claude_name(route.model) if route else "",
        stream=route is not None and route.method == "streamRawPredict",
        input_tokens=count_tokens(fields),
        request_id=received.request_id,
        seed=f"{seed}:{received.number}",
        id_infix="_vrtx",
        signer=signer,
    )


def _claude_name(model: str) -> str:
    """Return Anthropic's own name of the model, as replies have it."""
    name, _, version = model.partition("@")
    return f"{name}-{version}" if version.isdigit() else name


def _move_ping(events: Iterable[bytes]) -> Iterator[bytes]:
    for event in events:
        if event != PING:
            yield event
        if event.startswith(b"event: message_start\n"):
            yield PING
