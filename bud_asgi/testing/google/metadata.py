"""The metadata server of a virtual machine, as far as credentials use it ("VM metadata")."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import msgspec

from bud_asgi.testing.google.accounts import ServiceAccount
from bud_asgi.testing.google.errors import GoogleRejected
from bud_asgi.testing.google.grants import Grant
from bud_asgi.testing.google.tokens import CLOUD_PLATFORM
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Reply

_ROOT = "/computeMetadata/v1/"


class MetadataServer(msgspec.Struct, frozen=True):
    """The metadata server of a machine that runs as this service account."""

    account: ServiceAccount

    def handles(self, received: Received) -> bool:
        """Whether the request is for the metadata server. Clients probe its root."""
        return received.path == b"/" or received.path.startswith(b"/computeMetadata/")

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of every reply. By the first one, clients recognise the metadata server."""
        return [("metadata-flavor", "Google"), ("server", "Metadata Server for VM")]

    def handle(self, received: Received) -> Grant | Reply:
        """Return the reply, or the token to grant. Raises `GoogleRejected`."""
        _check_sender(received)
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
                info = {"aliases": ["default"], "email": self.account.email, "scopes": [CLOUD_PLATFORM]}
                return Reply(headers=(("content-type", "application/json"),), body=json.dumps(info).encode())
            if path == f"instance/service-accounts/{name}/token":
                scopes = ",".join(query.get("scopes", [CLOUD_PLATFORM])).split(",")
                return Grant(self.account.email, tuple(scopes))
        raise _rejected(404, "The requested URL was not found on this server.")


def _check_sender(received: Received) -> None:
    """Check that the request comes from a program on the machine, not through a proxy or a browser."""
    if received.method != b"GET":
        raise _rejected(405, "Method Not Allowed")
    if received.values("x-forwarded-for"):
        raise _rejected(403, "Requests with the header X-Forwarded-For are not answered.")
    if received.path != b"/" and received.values("metadata-flavor") != [b"Google"]:
        raise _rejected(403, "Missing Metadata-Flavor:Google header.")


def _text(value: str) -> Reply:
    return Reply(headers=(("content-type", "application/text"),), body=value.encode())


def _rejected(status: int, message: str) -> GoogleRejected:
    page = f"<!DOCTYPE html>\n<title>Error {status}</title>\n<p>{message}\n".encode()
    headers = (("content-type", "text/html; charset=UTF-8"),)
    return GoogleRejected(message, Reply(status=status, headers=headers, body=page))
