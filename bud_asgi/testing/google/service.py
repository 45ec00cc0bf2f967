"""Google's token services behind a stand-in: OAuth, workload identity federation, impersonation, the metadata server.

It serves what the library `google-auth` asks for, and imports nothing of it.

    google = Google()
    async with StandIn.of(google) as tokens, StandIn.of(Vertex(tokens=google.tokens)) as vertex:
        key_file.write_text(json.dumps(google.account.info(tokens.base_url)))
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from bud_asgi.testing.anthropic.messages import Asked, made_id
from bud_asgi.testing.google.accounts import Federation, ServiceAccount
from bud_asgi.testing.google.errors import UNAUTHENTICATED, GoogleError, GoogleRefused, google_html
from bud_asgi.testing.google.grants import Grant, bearer_of, by_assertion, by_exchange, by_impersonation
from bud_asgi.testing.google.metadata import Metadata
from bud_asgi.testing.google.tokens import Token, Tokens
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, Rendered, Reply, json_body, render
from bud_asgi.testing.server.service import Refusal

PROJECT = "bud-stand-in"
NUMBER = "123456789012"
"""A project's number, which Google's own texts show in place of its name."""

_IMPERSONATION = re.compile(r"/v1/projects/-/serviceAccounts/([^/:]+):generateAccessToken")


class Google:
    """Google's token services, for `StandIn.of`. Tokens live `lifetime` seconds, unless less was asked for.

    `account` is the service account whose key file a test uses, and that the metadata server speaks for. `target` is
    one without a key: it may be impersonated by `account`, by the workload of `federation`, and by `creators`. What was
    issued is in `tokens`, which the stand-in of another service takes. How often it was asked say the stand-in's
    `requests`. `lifetime` may be changed at any time.
    """

    max_body = 1 << 20

    def __init__(
        self, *, project: str = PROJECT, number: str = NUMBER, lifetime: int = 3600, creators: Iterable[str] = ()
    ) -> None:
        self.project, self.number, self.lifetime = project, number, lifetime
        self.tokens = Tokens()
        self.account = ServiceAccount(f"stand-in@{project}.iam.gserviceaccount.com", project)
        self.target = ServiceAccount(f"target@{project}.iam.gserviceaccount.com", project)
        self.federation = Federation(number)
        self._creators = frozenset({self.account.email, self.federation.principal, *creators})
        self._metadata = Metadata(self.account)

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`; Google tells none."""
        return made_id("google", seed)

    def refuse(self, received: Received) -> Refusal | None:
        """See `Service.refuse`."""
        if not received.complete:
            return Refusal("the body is too large", google_html(413))
        try:
            self._granted(received)
        except GoogleRefused as refused:
            return refused.refusal
        return None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`. Issues a token, if that is what is asked for."""
        granted = self._granted(received)
        if isinstance(granted, Reply):
            return granted
        lifetime = self.lifetime if granted.lifetime is None else min(self.lifetime, granted.lifetime)
        token = self.tokens.issue(granted.principal, granted.scopes, lifetime)
        return _told(received.path, token, lifetime)

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`."""
        return render(body, lambda: Asked("", stream=False, input_tokens=0, request_id="", seed=f"{seed}"))

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`."""
        if self._metadata.serves(received):
            return self._metadata.headers()
        return [("cache-control", "no-cache, no-store, max-age=0, must-revalidate"), ("server", "scaffolding")]

    def _granted(self, received: Received) -> Grant | Reply:
        if self._metadata.serves(received):
            return self._metadata.ask(received)
        path = unquote(received.path.decode("latin-1"))
        if received.method == b"POST":
            if path == "/token":
                return by_assertion(received, {self.account.email: self.account})
            if path == "/v1/token":
                return by_exchange(received, self.federation)
            if found := _IMPERSONATION.fullmatch(path):
                allowed = self._creators if found[1] == self.target.email else frozenset[str]()
                return by_impersonation(received, found[1], self._caller(received), allowed)
        raise GoogleRefused("not found", google_html(404))

    def _caller(self, received: Received) -> Token:
        token = self.tokens.find(bearer_of(received))
        if token is None or token.expired:
            error = GoogleError("UNAUTHENTICATED", UNAUTHENTICATED)
            raise GoogleRefused(error.message, error.reply())
        return token


def _told(path: bytes, token: Token, lifetime: int) -> Reply:
    if path.endswith(b":generateAccessToken"):
        expires = datetime.now(UTC) + timedelta(seconds=lifetime)
        return json_body({"accessToken": token.value, "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%SZ")})
    told: dict[str, object] = {"access_token": token.value, "expires_in": lifetime, "token_type": "Bearer"}
    if path == b"/v1/token":
        told["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 (a name)
    return Reply(headers=(("content-type", "application/json; charset=utf-8"),), body=json.dumps(told).encode())
