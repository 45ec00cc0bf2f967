"""Claude models on Amazon Bedrock behind a stand-in: signatures, paths, bodies, frames and errors are Bedrock's.

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

from bud_asgi.testing.anthropic.answers import count_tokens, default_content
from bud_asgi.testing.anthropic.messages import Asked, Content, message_json
from bud_asgi.testing.bedrock.errors import AwsRefused
from bud_asgi.testing.bedrock.keys import ACCOUNT, AwsKeys
from bud_asgi.testing.bedrock.models import Place, Route, route_of
from bud_asgi.testing.bedrock.request import BETAS, Rules, invoke_body, judge
from bud_asgi.testing.bedrock.sigv4 import Clock, Signer
from bud_asgi.testing.bedrock.stream import CONTENT_TYPE, broken, chunks
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, ErrorEvents, Failure, Lazy, Rendered, Reply, json_body
from bud_asgi.testing.server.service import Refusal

REGION = "us-east-1"


def _now() -> datetime:
    return datetime.now(UTC)


class Bedrock(msgspec.Struct, frozen=True, kw_only=True):
    """Bedrock Runtime with Claude models, for `StandIn.of`. A client's endpoint is the stand-in's `base_url`.

    It takes the signatures of the keys that were issued, and API keys as bearer tokens, and refuses what the service
    refuses, in its words.
    """

    keys: AwsKeys = msgspec.field(default_factory=AwsKeys)
    """The access keys: `keys.issue()` and `keys.issue_temporary()` make those that it takes."""
    api_keys: Collection[str] = ("bedrock-api-key-stand-in",)
    """The bearer tokens that it takes."""
    region: str = REGION
    account: str = ACCOUNT
    models: Collection[str] | None = None
    """The base ids that it knows, such as `anthropic.claude-opus-4-8`; all that are named by the rules if `None`, but
    none with "does-not-exist" in it."""
    profiles: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    """Base ids by the ARNs that hide them: of application inference profiles, provisioned models and deployments."""
    betas: Collection[str] = BETAS
    """The beta flags that it knows."""
    clock: Clock = _now
    """Its time of day, against which a signature's is held."""
    max_body: int = 20_000_000
    """The largest body, in bytes."""

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`."""
        return str(uuid.UUID(int=random.Random(seed).getrandbits(128), version=4))  # noqa: S311 (repeatable on purpose)

    def refuse(self, received: Received) -> Refusal | None:
        """See `Service.refuse`."""
        signer = Signer(self.keys, "bedrock", self.region, self.clock)
        try:
            judge(received, Rules(signer, self.api_keys, self._place, self.betas))
        except AwsRefused as refused:
            return refused.refusal
        return None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`."""
        route = route_of(received)
        fields = _fields_of(received, route)
        if route is not None and route.operation == "CountTokens":
            return json_body({"inputTokens": count_tokens(fields)})
        return Reply(body=default_content(fields))

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`. Bytes in pieces, and bodies that are made while they are sent, are event streams."""
        match body:
            case bytes():
                return _json(body)
            case tuple():
                return Rendered(body, CONTENT_TYPE, stream=True)
            case Failure():
                return _json(json.dumps({"message": body.message}).encode())
            case _:
                return _rendered(body, self._asked(received, seed))

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`. Only whole answers tell of tokens."""
        headers = [("x-amzn-requestid", received.request_id)]
        if isinstance(reply.body, Failure):
            headers.append(("x-amzn-errortype", f"{reply.body.type}:"))
        if isinstance(reply.body, bytes | Failure):
            return headers
        asked = self._asked(received, 0)
        if asked.stream or not isinstance(reply.body, Content):
            return [*headers, ("x-amzn-bedrock-content-type", "application/json")]
        usage = json.loads(message_json(reply.body, asked))["usage"]
        told = {
            "invocation-latency": 1798,
            "input-token-count": usage["input_tokens"],
            "output-token-count": usage["output_tokens"],
            "cache-read-input-token-count": usage["cache_read_input_tokens"],
            "cache-write-input-token-count": usage["cache_creation_input_tokens"],
        }
        return [*headers, *((f"x-amzn-bedrock-{name}", str(value)) for name, value in told.items())]

    @property
    def _place(self) -> Place:
        return Place(self.account, self.region, self.models, self.profiles)

    def _asked(self, received: Received, seed: int) -> Asked:
        route = route_of(received)
        return Asked(
            model=self._place.model(route) if route else "",
            stream=route is not None and route.operation == "InvokeModelWithResponseStream",
            input_tokens=count_tokens(_fields_of(received, route)),
            request_id=received.request_id,
            seed=f"{seed}:{received.number}",
            infix="_bdrk",
        )


def _fields_of(received: Received, route: Route | None) -> Mapping[str, Any]:
    return json.loads(invoke_body(received, route)) if route else {}


def _json(body: bytes) -> Rendered:
    return Rendered((body,) if body else (), "application/json", stream=False)


def _rendered(body: Content | ErrorEvents | Lazy, asked: Asked) -> Rendered:
    match body:
        case Content() if not asked.stream:
            return _json(message_json(body, asked))
        case Content():
            pieces = list(chunks(body, asked))
        case ErrorEvents():
            pieces = list(broken(body, asked))
        case Lazy():
            pieces = body.pieces(asked)
    return Rendered(pieces, CONTENT_TYPE, stream=True)
