"""A Google that gives tokens, and credentials that ask it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from bud_asgi.http import HttpRequest, Origin
from bud_asgi.providers.refresher import RefreshTiming
from bud_asgi.providers.vertex.credential import GoogleCredential
from bud_asgi.testing import StandIn, ThreadedStandIn
from bud_asgi.testing.google import Google

REQUEST = HttpRequest(Origin("127.0.0.1", 1), b"POST", b"/", ((b"accept", b"application/json"),))


class Served:
    """What a test looks at: what was issued, and what the stand-in saw."""

    def __init__(self, google: Google, stand_in: ThreadedStandIn) -> None:
        self.google, self.stand_in = google, stand_in
        self.timing = RefreshTiming()

    @property
    def issued(self) -> list[str]:
        """The tokens so far."""
        return [token.value for token in self.google.tokens.issued]

    def key(self, **changes: object) -> dict[str, object]:
        """The key of its service account, with other values for some fields."""
        return {**self.google.account.info(self.stand_in.base_url), **changes}

    def credential(self, **options: Any) -> GoogleCredential:
        """A credential with the key, unless another source is given."""
        given = options.keys() & {"credentials", "service_account_file", "service_account_info"}
        options = {"timing": self.timing, **options}
        return GoogleCredential(**({} if given else {"service_account_info": self.key()}), **options)


@contextmanager
def google_served(**options: Any) -> Generator[Served]:
    """A Google stand-in in a thread; `options` are its own."""
    google = Google(**options)
    with StandIn.of(google).in_thread() as stand_in:
        yield Served(google, stand_in)


async def applied(credential: GoogleCredential) -> dict[str, str]:
    """The headers that the credential puts on a request, by name."""
    request = await credential.apply(REQUEST, {})
    given, sent = tuple(REQUEST.headers), tuple(request.headers)
    assert sent[: len(given)] == given
    return {name.decode(): value.decode() for name, value in sent[len(given) :]}


async def bearer(credential: GoogleCredential) -> str:
    """The token that it puts on a request."""
    return (await applied(credential))["authorization"].removeprefix("Bearer ")
