"""Claude on Amazon Bedrock, for a stand-in: Bedrock's signatures, paths, bodies, event stream and errors.

    bedrock = Bedrock()
    key = bedrock.keys.issue_temporary()
    async with StandIn.of(bedrock) as upstream: ...

Sources: "InvokeModel", "InvokeModelWithResponseStream", "CountTokens", "Claude on Amazon Bedrock".
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from bud_asgi.testing.anthropic.default_replies import count_tokens, default_content
from bud_asgi.testing.anthropic.messages import Content, ParsedRequest, message_json
from bud_asgi.testing.bedrock.check_request import BETAS, Rules, check_request, invoke_body
from bud_asgi.testing.bedrock.errors import AwsRejected
from bud_asgi.testing.bedrock.keys import ACCOUNT, AwsKeys
from bud_asgi.testing.bedrock.model_ids import ModelResolver, Route, parse_route
from bud_asgi.testing.bedrock.sigv4 import Clock, SignatureVerifier
from bud_asgi.testing.bedrock.stream import CONTENT_TYPE, chunks, error_chunks
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, ErrorEvents, Failure, Lazy, Rendered, Reply, json_body
from bud_asgi.testing.server.service import Rejection

REGION = "us-east-1"


def _now() -> datetime:
    return datetime.now(UTC)


class Bedrock(msgspec.Struct, frozen=True, kw_only=True):
    """Bedrock Runtime with Claude models, for `StandIn.of`. A client's endpoint is the stand-in's `base_url`.

    It accepts signatures made with the keys in `keys`, and the API keys as bearer tokens. It rejects what the real
    service rejects, with the same errors.
    """

    keys: AwsKeys = msgspec.field(default_factory=AwsKeys)
    """The access keys that it accepts: `keys.issue()` and `keys.issue_temporary()` make one."""
    api_keys: Collection[str] = ("bedrock-api-key-stand-in",)
    """The bearer tokens that it accepts."""
    region: str = REGION
    account: str = ACCOUNT
    models: Collection[str] | None = None
    """The base ids that it knows, such as `anthropic.claude-opus-4-8`. `None`: every valid one without
    "does-not-exist" in it."""
    profiles: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    """Base ids by ARN, for ARNs without one: application inference profiles, provisioned models, deployments."""
    betas: Collection[str] = BETAS
    """The beta flags that it knows."""
    signer: str | None = None
    """Any name: signs the thinking blocks of its replies. Blocks that another has signed are refused; `None`: none."""
    clock: Clock = _now
    """Returns the time of day, to which the time of a signature is compared."""
    max_body: int = 20_000_000
    """The largest body, in bytes."""

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`."""
        return str(uuid.UUID(int=random.Random(seed).getrandbits(128), version=4))  # noqa: S311 (repeatable on purpose)

    def check(self, received: Received) -> Rejection | None:
        """See `Service.check`."""
        signatures = SignatureVerifier(self.keys, "bedrock", self.region, self.clock)
        try:
            check_request(received, Rules(signatures, self.api_keys, self._models, self.betas, self.signer))
        except AwsRejected as rejected:
            return rejected.rejection
        return None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`."""
        route = parse_route(received)
        fields = _invoke_fields(received, route)
        if route is not None and route.operation == "CountTokens":
            return json_body({"inputTokens": count_tokens(fields)})
        return Reply(body=default_content(fields))

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`. A body of several pieces or a `Lazy` one is an event stream."""
        match body:
            case bytes():
                return _json(body)
            case tuple():
                return Rendered(body, CONTENT_TYPE, stream=True)
            case Failure():
                return _json(json.dumps({"message": body.message}).encode())
            case _:
                return _rendered(body, self._parse_request(received, seed))

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`. Only replies that do not stream have token counts."""
        headers = [("x-amzn-requestid", received.request_id)]
        if isinstance(reply.body, Failure):
            headers.append(("x-amzn-errortype", f"{reply.body.type}:"))
        if isinstance(reply.body, bytes | Failure):
            return headers
        request = self._parse_request(received, 0)
        if request.stream or not isinstance(reply.body, Content):
            return [*headers, ("x-amzn-bedrock-content-type", "application/json")]
        usage = json.loads(message_json(reply.body, request))["usage"]
        fields = {
            "invocation-latency": 1798,
            "input-token-count": usage["input_tokens"],
            "output-token-count": usage["output_tokens"],
            "cache-read-input-token-count": usage["cache_read_input_tokens"],
            "cache-write-input-token-count": usage["cache_creation_input_tokens"],
        }
        return [*headers, *((f"x-amzn-bedrock-{name}", str(value)) for name, value in fields.items())]

    @property
    def _models(self) -> ModelResolver:
        return ModelResolver(self.account, self.region, self.models, self.profiles)

    def _parse_request(self, received: Received, seed: int) -> ParsedRequest:
        route = parse_route(received)
        return ParsedRequest(
            model=self._models.resolve(route) if route else "",
            stream=route is not None and route.operation == "InvokeModelWithResponseStream",
            input_tokens=count_tokens(_invoke_fields(received, route)),
            request_id=received.request_id,
            seed=f"{seed}:{received.number}",
            id_infix="_bdrk",
            signer=self.signer or "",
        )


def _invoke_fields(received: Received, route: Route | None) -> Mapping[str, Any]:
    return json.loads(invoke_body(received, route)) if route else {}


def _json(body: bytes) -> Rendered:
    return Rendered((body,) if body else (), "application/json", stream=False)


def _rendered(body: Content | ErrorEvents | Lazy, request: ParsedRequest) -> Rendered:
    match body:
        case Content() if not request.stream:
            return _json(message_json(body, request))
        case Content():
            pieces = list(chunks(body, request))
        case ErrorEvents():
            pieces = list(error_chunks(body, request))
        case Lazy():
            pieces = body.pieces(request)
    return Rendered(pieces, CONTENT_TYPE, stream=True)
