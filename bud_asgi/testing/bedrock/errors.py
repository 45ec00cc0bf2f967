"""Errors in AWS's format: the name in a header, the message in a JSON body.

Format: "AWS restJson1 protocol" (Operation error serialization); statuses: the service model of Bedrock Runtime and
"Common error types".
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from bud_asgi.testing.server.replies import Reply
from bud_asgi.testing.server.service import Rejection

HTTP_STATUS = {
    "IncompleteSignatureException": 400,
    "SerializationException": 400,
    "ServiceQuotaExceededException": 400,
    "ValidationException": 400,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "UnrecognizedClientException": 403,
    "ResourceNotFoundException": 404,
    "UnknownOperationException": 404,
    "ModelTimeoutException": 408,
    "RequestEntityTooLargeException": 413,
    "ModelErrorException": 424,
    "ModelStreamErrorException": 424,
    "ModelNotReadyException": 429,
    "ThrottlingException": 429,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
}
"""The HTTP status of each error."""


class AwsError(msgspec.Struct, frozen=True):
    """An error of an AWS service: its name, its message, and other fields of its body."""

    name: str
    message: str
    extra: tuple[tuple[str, Any], ...] = ()
    field: str = "message"
    """The name of the message field: `message`, but `Message` in errors about policies and API keys."""

    def reply(self) -> Reply:
        """Return the error as a reply."""
        kind = f"{self.name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
        return Reply(status=HTTP_STATUS[self.name], headers=(("x-amzn-errortype", kind),), body=self.body())

    def body(self) -> bytes:
        """Return the JSON body."""
        return json.dumps({self.field: self.message, **dict(self.extra)}, ensure_ascii=False).encode()


class AwsRejected(Exception):
    """AWS would answer this request with this error. The parameters are those of `AwsError`."""

    def __init__(self, name: str, message: str, *, field: str = "message") -> None:
        super().__init__(message)
        self.rejection = Rejection(message, AwsError(name, message, field=field).reply())
