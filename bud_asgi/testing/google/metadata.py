"""The metadata server of a virtual machine, as far as credentials need it ("VM metadata")."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import msgspec

from bud_asgi.testing.google.accounts import ServiceAccount
from bud_asgi.testing.google.errors import GoogleRefused
from bud_asgi.testing.google.grants import Grant
from bud_asgi.testing.google.tokens import CLOUD_PLATFORM
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Reply

_ROOT = "/computeMetadata/v1/"


class Metadata(msgspec.Struct, frozen=True):
    """The metadata server of a machine that runs as this service account."""

    account: ServiceAccount

    def serves(self, received: Received) -> bool:
        """Whether the request is for it: its root is what is pinged."""
        return received.path == b"/" or received.path.startswith(b"/computeMetadata/")

    def headers(self) -> list[tuple[str, str]]:
        """What every reply of it has; by the first, clients know that it is Google's."""
        return [("metadata-flavor", "Google"), ("server", "Metadata Server for VM")]

    def ask(self, received: Received) -> Grant | Reply:
        """Say what is asked for, or what to grant. Raises `GoogleRefused`."""
        _judge_sender(received)
        target = urlsplit(received.target.decode("latin-1"))
        query = parse_qs(target.query)
        if target.path == "/":
            return _text("computeMetadata/\n")
        path = target.path.removeprefix(_ROOT)
        if path == "project/project-id":
            return _text(self.account.project)
        if path == "universe/universe-domain":
            return _text("googleapis.com")
        for name in ("default", self.account.email):
            if path == f"instance/service-accounts/{name}/" and query.get("recursive") == ["true"]:
                told = {"aliases": ["default"], "email": self.account.email, "scopes": [CLOUD_PLATFORM]}
                return Reply(headers=(("content-type", "application/json"),), body=json.dumps(told).encode())
            if path == f"instance/service-accounts/{name}/token":
                scopes = ",".join(query.get("scopes", [CLOUD_PLATFORM])).split(",")
                return Grant(self.account.email, tuple(scopes))
        raise _refused(404, "The requested URL was not found on this server.")


def _judge_sender(received: Received) -> None:
    """Whom it answers: a program on the machine that knows what it asks, and no proxy."""
    if received.method != b"GET":
        raise _refused(405, "Method Not Allowed")
    if received.values("x-forwarded-for"):
        raise _refused(403, "Requests with the header X-Forwarded-For are not answered.")
    if received.path != b"/" and received.values("metadata-flavor") != [b"Google"]:
        raise _refused(403, "Missing Metadata-Flavor:Google header.")


def _text(said: str) -> Reply:
    return Reply(headers=(("content-type", "application/text"),), body=said.encode())


def _refused(status: int, words: str) -> GoogleRefused:
    page = f"<!DOCTYPE html>\n<title>Error {status}</title>\n<p>{words}\n".encode()
    headers = (("content-type", "text/html; charset=UTF-8"),)
    return GoogleRefused(words, Reply(status=status, headers=headers, body=page))
