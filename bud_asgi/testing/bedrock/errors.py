"""Errors in AWS's words: the name in a header, the text in a JSON body.

Shapes: "AWS restJson1 protocol" (Operation error serialization); statuses: the service model of Bedrock Runtime and
"Common error types".
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from bud_asgi.testing.server.replies import Reply
from bud_asgi.testing.server.service import Refusal

HTTP = {
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
"""The HTTP status of each error that is told here."""


class AwsError(msgspec.Struct, frozen=True):
    """An error of an AWS service: its name, its text, and the other fields that its body has."""

    name: str
    message: str
    more: tuple[tuple[str, Any], ...] = ()
    field: str = "message"
    """The text's field: `message`, or `Message` where a policy or an API key is what refuses."""

    def reply(self) -> Reply:
        """The reply that tells it."""
        kind = f"{self.name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
        return Reply(status=HTTP[self.name], headers=(("x-amzn-errortype", kind),), body=self.body())

    def body(self) -> bytes:
        """The JSON body that tells it."""
        return json.dumps({self.field: self.message, **dict(self.more)}, ensure_ascii=False).encode()


class AwsRefused(Exception):
    """AWS would refuse this request, with this error."""

    def __init__(self, error: AwsError) -> None:
        super().__init__(error.message)
        self.refusal = Refusal(error.message, error.reply())


def aws_refused(name: str, message: str) -> AwsRefused:
    """A refusal, to be raised."""
    return AwsRefused(AwsError(name, message))
