"""A stand-in for the endpoints that issue temporary AWS keys: STS, SSO, container and instance metadata."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from bud_asgi.testing import Received
from bud_asgi.testing.bedrock import AwsKey, AwsKeys
from bud_asgi.testing.bedrock.errors import AwsRejected
from bud_asgi.testing.bedrock.sigv4 import SignatureVerifier
from bud_asgi.testing.server.serving import serving

ROLE = "arn:aws:iam::123456789012:role/gateway"
WEB_TOKEN = "a-web-identity-token"
CONTAINER_TOKEN = "a-container-token"
SSO_TOKEN = "an-sso-access-token"
START_URL = "https://stand-in.awsapps.test/start"
_METADATA_TOKEN = "a-metadata-token"
_METADATA = "/latest/meta-data/iam/security-credentials/"


class Sources:
    """Issues keys of `keys` that are valid for `lifetime` seconds and a moment longer, unless `fault` is set.

    `fault`: "hang" (until the caller leaves, counted in `left`), "500", "garbage", "incomplete", "expired".
    """

    def __init__(self) -> None:
        self.base_url = ""
        self.reset()
        self.app = Router(
            routes=[
                Route("/", self._sts, methods=["POST"]),
                Route("/container", self._container),
                Route("/federation/credentials", self._sso),
                Route("/latest/api/token", self._metadata_token, methods=["PUT"]),
                Route(_METADATA, self._metadata_role),
                Route(_METADATA + "{role}", self._metadata),
            ]
        )

    def reset(self) -> None:
        """As if just started."""
        self.keys = AwsKeys()
        self.lifetime = 3600.0
        self.fault: str | None = None
        self.delay = 0.0
        self.region = "us-east-1"
        """The region that requests to STS must be signed for."""
        self.always: AwsKey | None = None
        """The same key every time, instead of a new one."""
        self.asked: list[str] = []
        self.roles: list[Mapping[str, str]] = []
        """The forms that STS received."""
        self.left = 0

    async def _sts(self, request: Request) -> Response:
        body = await request.body()
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.roles.append(form)
        if form["Action"] == "AssumeRole":
            try:
                signer = SignatureVerifier(self.keys, "sts", self.region, lambda: datetime.now(UTC))
                signer.verify(_received(request, body))
            except AwsRejected as refused:
                return _sts_error(403, refused.rejection.message)
        elif form.get("WebIdentityToken") != WEB_TOKEN:
            return _sts_error(400, "InvalidIdentityToken")

        def xml(key: AwsKey, expiration: str) -> Response:
            text = "".join(f"<{name}>{value}</{name}>" for name, value in _fields(key, expiration, "Session").items())
            for element in ("Credentials", f"{form['Action']}Result", f"{form['Action']}Response"):
                text = f"<{element}>{text}</{element}>"
            return PlainTextResponse(text, media_type="text/xml")

        return await self._answer(request, form["Action"], xml)

    async def _container(self, request: Request) -> Response:
        if request.headers.get("authorization") != CONTAINER_TOKEN:
            return PlainTextResponse("no", 403)
        return await self._answer(request, "container", _respond_json)

    async def _metadata_token(self, request: Request) -> Response:
        assert "x-aws-ec2-metadata-token-ttl-seconds" in request.headers
        return PlainTextResponse(_METADATA_TOKEN)

    async def _metadata_role(self, request: Request) -> Response:
        known = request.headers.get("x-aws-ec2-metadata-token") == _METADATA_TOKEN
        return PlainTextResponse("instance-role" if known else "no", 200 if known else 401)

    async def _metadata(self, request: Request) -> Response:
        if request.headers.get("x-aws-ec2-metadata-token") != _METADATA_TOKEN:
            return PlainTextResponse("no", 401)
        return await self._answer(request, "metadata", _respond_json)

    async def _sso(self, request: Request) -> Response:
        if request.headers.get("x-amz-sso_bearer_token") != SSO_TOKEN:
            return JSONResponse({"message": "Session token not found or invalid"}, 401)

        def respond(key: AwsKey, expiration: str) -> Response:
            milliseconds = int(datetime.fromisoformat(expiration).timestamp() * 1000)
            names = {
                "accessKeyId": key.access_key,
                "secretAccessKey": key.secret_key,
                "sessionToken": key.session_token,
            }
            return JSONResponse({"roleCredentials": {**names, "expiration": milliseconds}})

        return await self._answer(request, "sso", respond)

    async def _answer(self, request: Request, way: str, respond: Callable[[AwsKey, str], Response]) -> Response:
        self.asked.append(way)
        await asyncio.sleep(self.delay)
        match self.fault:
            case "hang":
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                self.left += 1
                return Response()
            case "500":
                return _sts_error(500, "InternalFailure")
            case "garbage":
                return PlainTextResponse("<html>{", media_type="application/json")
            case "incomplete":
                return JSONResponse({"AccessKeyId": "ASIAINCOMPLETE"})
            case _:
                seconds = -60.0 if self.fault == "expired" else self.lifetime
                key = self.always or self.keys.issue_temporary(seconds + 0.5)
                return respond(key, (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"))


@contextmanager
def sources() -> Generator[Sources]:
    """The stand-in, served in a thread."""
    stand_in = Sources()
    with serving(stand_in.app) as url:
        stand_in.base_url = url
        yield stand_in


def bare_machine(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Remove the AWS configuration of this machine."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "BOTO")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials"))
    monkeypatch.setenv("BOTO_CONFIG", str(home / "boto"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def in_container(monkeypatch: pytest.MonkeyPatch, stand_in: Sources) -> None:
    """Configure the machine as a container with a credentials endpoint."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{stand_in.base_url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN)


def process_output(key: AwsKey, seconds: float | None = None) -> str:
    """What a `credential_process` prints."""
    output: dict[str, Any] = {"Version": 1, "AccessKeyId": key.access_key, "SecretAccessKey": key.secret_key}
    if key.session_token:
        output["SessionToken"] = key.session_token
    if seconds is not None:
        output["Expiration"] = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(output)


def _fields(key: AwsKey, expiration: str, prefix: str = "") -> dict[str, str | None]:
    names = {"AccessKeyId": key.access_key, "SecretAccessKey": key.secret_key}
    return {**names, f"{prefix}Token": key.session_token, "Expiration": expiration}


def _respond_json(key: AwsKey, expiration: str) -> Response:
    return JSONResponse({"Code": "Success", "Type": "AWS-HMAC", **_fields(key, expiration)})


def _sts_error(status: int, words: str) -> Response:
    return PlainTextResponse(
        f"<ErrorResponse><Error><Type>Sender</Type><Code>Refused</Code><Message>{words}</Message></Error></ErrorResponse>",
        status,
        media_type="text/xml",
    )


def _received(request: Request, body: bytes) -> Received:
    target: bytes = request.scope["raw_path"]
    headers: list[tuple[bytes, bytes]] = list(request.scope["headers"])
    return Received(number=1, connection=1, method=request.method.encode(), target=target, headers=headers, body=body)
