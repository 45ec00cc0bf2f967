"""Requests to Bedrock signed by botocore and sent as raw bytes, so that every part of them can be wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bud_asgi.testing import StandIn
from bud_asgi.testing.bedrock import AwsKey
from testing.raw_client import Ended, ask, unchunked, wire

OPUS = "us.anthropic.claude-opus-4-8"
HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
BODY: dict[str, Any] = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "What is new?"}],
}
OURS = {"x-api-key": None, "anthropic-version": None}
"""Leaves out the headers of Anthropic's own API, which the raw client sends by default."""


def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's AWS settings from the clients."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def path(model: str = OPUS, operation: str = "invoke") -> str:
    return f"/model/{model}/{operation}"


def signed(
    upstream: StandIn,
    key: AwsKey,
    body: bytes,
    *,
    target: str = path(),
    region: str = "us-east-1",
    service: str = "bedrock",
    access_key: str | None = None,
    secret: str | None = None,
    token: str | None = None,
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the headers of a signed request; `access_key`, `secret` and `token` replace those of the key."""
    session_token = key.session_token if token is None else token
    credentials = Credentials(access_key or key.access_key, secret or key.secret_key, session_token)
    headers = {"content-type": "application/json", **(more or {})}
    request = AWSRequest(method="POST", url=upstream.base_url + target, headers=headers, data=body)
    SigV4Auth(credentials, service, region).add_auth(request)
    return {**dict(request.headers.items()), "host": f"127.0.0.1:{upstream.port}"}


def encoded(fields: Mapping[str, Any]) -> bytes:
    return json.dumps({**BODY, **fields}).encode()


async def send(
    upstream: StandIn,
    body: bytes,
    headers: Mapping[str, str | None],
    *,
    target: str = path(),
    method: str = "POST",
    silence: float = 5.0,
) -> tuple[bytes, bytes, Ended]:
    """Return head, content and end of the reply. `silence` is the longest pause in it, in seconds."""
    start = f"{method} {target} HTTP/1.1"
    head, content, ended = await ask(upstream, wire(body, headers={**OURS, **headers}, start=start), silence)
    if b"\r\ntransfer-encoding: chunked" in head:
        content = unchunked(content)[0]
    return head, content, ended


async def invoke(
    upstream: StandIn,
    key: AwsKey,
    *,
    target: str = path(),
    more: Mapping[str, str] | None = None,
    silence: float = 5.0,
    **fields: Any,
) -> tuple[bytes, bytes, Ended]:
    """Send a signed request; `fields` change its body."""
    body = encoded(fields)
    headers = signed(upstream, key, body, target=target, more=more)
    return await send(upstream, body, headers, target=target, silence=silence)


def error_of(head: bytes, content: bytes) -> tuple[int, str, str]:
    """Return status, name and message of an error."""
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    error = json.loads(content)
    return (
        int(head.split(b" ")[1]),
        fields["x-amzn-errortype"].partition(":")[0],
        error.get("message", error.get("Message")),
    )
