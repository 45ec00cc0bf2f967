"""A gateway before a stand-in for Bedrock, and what comes out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx
from support.calls import BODY, HEADERS, MODEL
from support.gateway import PATIENT, Gateway, gateway

from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.testing import Received, Reply, StandIn, ThreadedStandIn
from bud_asgi.testing import bedrock as stand_ins

ACCOUNT = "123456789012"
ARN = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:application-inference-profile/abc123"
THERE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
PROTOCOL = "The upstream's answer was malformed."
CLOSED = "The upstream closed the connection before its answer was whole."
ENDED = "The upstream ended its stream before the message was whole."
FAILED = "The upstream failed."


class Stage:
    """A gateway before Bedrock."""

    def __init__(self, here: Gateway, upstream: ThreadedStandIn) -> None:
        self.here, self.upstream = here, upstream

    @property
    def sent(self) -> Received:
        """The latest request that went to Bedrock."""
        return self.upstream.requests[-1]

    def post(self, body: Any = None, *replies: Reply | Callable[[Received], Reply], **headers: str) -> httpx.Response:
        """One request for a Message, answered so."""
        self.upstream.enqueue(*replies)
        lines = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.here.post(body, headers=lines)

    def stream(self, *replies: Reply | Callable[[Received], Reply]) -> httpx.Response:
        return self.post({"stream": True}, *replies)

    def count(self, model: str = MODEL, *replies: Reply, **fields: Any) -> httpx.Response:
        """One request for a count of tokens."""
        self.upstream.enqueue(*replies)
        body = {"model": model, "messages": BODY["messages"], **fields}
        return httpx.post(f"{self.here.base_url}/v1/messages/count_tokens", headers=HEADERS, json=body)


@contextmanager
def staged(service: stand_ins.Bedrock | None = None, app: Any = None, **options: Any) -> Generator[Stage]:
    service = service or stand_ins.Bedrock()
    with StandIn.of(service).in_thread() as upstream:
        settings: dict[str, Any] = {
            "region": service.region,
            "endpoint": upstream.base_url,
            "timeouts": PATIENT,
            **options,
        }
        if "bearer_token" not in options and "access_key" not in options:
            key = service.keys.issue_temporary()
            settings |= {"access_key": key.access_key, "secret_key": key.secret_key, "session_token": key.session_token}
        with gateway("", providers=[Bedrock(**settings)], **(app or {})) as here:
            yield Stage(here, upstream)
            here.assert_nothing_open()


def error_of(reply: httpx.Response) -> tuple[int, str, str]:
    """The status, type and message of an error in the envelope, with our request id."""
    body = reply.json()
    assert (body["type"], body["request_id"]) == ("error", reply.headers["request-id"])
    assert ACCOUNT not in reply.text
    assert "arn:" not in reply.text
    return reply.status_code, body["error"]["type"], body["error"]["message"]


def events_of(reply: httpx.Response) -> list[tuple[str, Any]]:
    """Name and data of each event; each is two lines and an empty one."""
    assert reply.content.endswith(b"\n\n")
    events: list[tuple[str, Any]] = []
    for block in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events
