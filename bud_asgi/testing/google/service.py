"""Google's token services, for a stand-in: OAuth, workload identity federation, impersonation, the metadata server.

They serve the requests of the library `google-auth`, without importing it.

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

from bud_asgi.testing.anthropic.messages import ParsedRequest, make_id
from bud_asgi.testing.google.accounts import Federation, ServiceAccount
from bud_asgi.testing.google.errors import UNAUTHENTICATED, GoogleError, GoogleRejected, google_html
from bud_asgi.testing.google.grants import (
    Grant,
    bearer_token,
    grant_for_assertion,
    grant_for_exchange,
    grant_for_impersonation,
)
from bud_asgi.testing.google.metadata import MetadataServer
from bud_asgi.testing.google.tokens import Token, Tokens
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Body, Rendered, Reply, json_body, render
from bud_asgi.testing.server.service import Rejection

PROJECT = "bud-stand-in"
NUMBER = "123456789012"
"""The project's number, which Google's error messages show instead of its name."""

_IMPERSONATION = re.compile(r"/v1/projects/-/serviceAccounts/([^/:]+):generateAccessToken")


class Google:
    """Google's token services, for `StandIn.of`. Tokens expire after `lifetime` seconds, unless less was requested.

    `account` is a service account: a test uses its key file, and the metadata server issues its tokens. `target` is a
    service account without a key; `account`, the workload of `federation`, and the principals in `creators` may
    impersonate it. The tokens issued are in `tokens`, which `Vertex` accepts. `lifetime` may be changed at any time.
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
        self._metadata = MetadataServer(self.account)

    def request_id(self, seed: str) -> str:
        """See `Service.request_id`. Google's replies do not include it."""
        return make_id("google", seed)

    def check(self, received: Received) -> Rejection | None:
        """See `Service.check`."""
        if not received.complete:
            return Rejection("the body is too large", google_html(413))
        try:
            self._handle(received)
        except GoogleRejected as rejected:
            return rejected.rejection
        return None

    def answer(self, received: Received) -> Reply:
        """See `Service.answer`. Issues the token that is requested."""
        grant = self._handle(received)
        if isinstance(grant, Reply):
            return grant
        lifetime = self.lifetime if grant.lifetime is None else min(self.lifetime, grant.lifetime)
        token = self.tokens.issue(grant.principal, grant.scopes, lifetime)
        return _token_reply(received.path, token, lifetime)

    def render(self, body: Body, received: Received, seed: int) -> Rendered:
        """See `Service.render`."""
        return render(body, lambda: ParsedRequest("", stream=False, input_tokens=0, request_id="", seed=f"{seed}"))

    def headers(self, received: Received, reply: Reply) -> list[tuple[str, str]]:
        """See `Service.headers`."""
        if self._metadata.handles(received):
            return self._metadata.headers()
        return [("cache-control", "no-cache, no-store, max-age=0, must-revalidate"), ("server", "scaffolding")]

    def _handle(self, received: Received) -> Grant | Reply:
        if self._metadata.handles(received):
            return self._metadata.handle(received)
        path = unquote(received.path.decode("latin-1"))
        if received.method == b"POST":
            if path == "/token":
                return grant_for_assertion(received, {self.account.email: self.account})
            if path == "/v1/token":
                return grant_for_exchange(received, self.federation)
            if found := _IMPERSONATION.fullmatch(path):
                allowed = self._creators if found[1] == self.target.email else frozenset[str]()
                return grant_for_impersonation(received, found[1], self._caller(received), allowed)
        raise GoogleRejected("not found", google_html(404))

    def _caller(self, received: Received) -> Token:
        token = self.tokens.find(bearer_token(received))
        if token is None or token.expired:
            error = GoogleError("UNAUTHENTICATED", UNAUTHENTICATED)
            raise GoogleRejected(error.message, error.reply())
        return token


def _token_reply(path: bytes, token: Token, lifetime: int) -> Reply:
    if path.endswith(b":generateAccessToken"):
        expires = datetime.now(UTC) + timedelta(seconds=lifetime)
        return json_body({"accessToken": token.value, "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%SZ")})
    fields: dict[str, object] = {"access_token": token.value, "expires_in": lifetime, "token_type": "Bearer"}
    if path == b"/v1/token":
        fields["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 (a name)
    return Reply(headers=(("content-type", "application/json; charset=utf-8"),), body=json.dumps(fields).encode())
