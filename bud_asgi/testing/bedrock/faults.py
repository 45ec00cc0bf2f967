"""Errors of Bedrock, and faults of its event streams, for `enqueue` and `always`.

`reply` is the reply to damage, one with `Content` as its body; by default a text. Error texts are as observed, with
account numbers and ARNs as the real ones have them. The faults of `bud_asgi.testing` work with Bedrock too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from bud_asgi.testing.anthropic.messages import Content, ParsedRequest, TextBlock
from bud_asgi.testing.bedrock.errors import AwsError
from bud_asgi.testing.bedrock.frames import with_checksum
from bud_asgi.testing.bedrock.keys import ACCOUNT
from bud_asgi.testing.bedrock.model_ids import ModelResolver, parse_route
from bud_asgi.testing.bedrock.stream import (
    chunk,
    chunks,
    error_message,
    event_message,
    exception_message,
    metrics_chunk,
    text_delta,
)
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Lazy, Reply

_TEXT = "The stand-in tells a story that is long enough to be broken somewhere in its middle, and it does not mind."
_BATCH = 64 << 10
_UNEXPECTED = "The system encountered an unexpected error during processing. Try your request again."
_TEXTS = {
    "AccessDeniedException": "You don't have access to the model with the specified model ID.",
    "ExpiredTokenException": "The security token included in the request is expired",
    "InternalServerException": _UNEXPECTED,
    "ModelNotReadyException": "Model is not ready for inference. Wait and try your request again.",
    "ModelTimeoutException": "Model has timed out in processing the request. Try your request again.",
    "ModelStreamErrorException": _UNEXPECTED,
    "ResourceNotFoundException": "Could not resolve the foundation model from the provided model identifier.",
    "ServiceQuotaExceededException": (
        f"Your request exceeds the service quota of account {ACCOUNT}. "
        f"See arn:aws:servicequotas:us-east-1:{ACCOUNT}:bedrock/L-254CACF4."
    ),
    "ServiceUnavailableException": "Too many connections, please wait before trying again.",
    "ThrottlingException": "Too many tokens, please wait before trying again.",
    "UnrecognizedClientException": "The security token included in the request is invalid.",
    "ValidationException": "Input is too long for requested model.",
}


def aws_error(name: str, message: str | None = None, **extra: Any) -> Reply:
    """An error of the service by its name, such as `ThrottlingException`. `extra` are other fields of its body."""
    return AwsError(name, _TEXTS[name] if message is None else message, tuple(extra.items())).reply()


def model_error(status: int, message: str) -> Reply:
    """An error of the model itself: `ModelErrorException` with the model's status."""
    arn = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:inference-profile/us.anthropic.claude-opus-4-8"
    return aws_error("ModelErrorException", message, originalStatusCode=status, resourceName=arn)


def access_denied(account: str = ACCOUNT, region: str = "us-east-1") -> Callable[[Received], Reply]:
    """The caller's role lacks the permission. The message has the ARNs of the caller and of the model."""

    def reply(received: Received) -> Reply:
        route = parse_route(received)
        resource = ModelResolver(account, region, None, {}).arn(route.identifier) if route else "*"
        action = f"bedrock:{route.operation if route else 'InvokeModel'}"
        message = (
            f"User: arn:aws:sts::{account}:assumed-role/stand-in/session is not authorized to perform: {action} on "
            f"resource: {resource} because no identity-based policy allows the {action} action"
        )
        return AwsError("AccessDeniedException", message, field="Message").reply()

    return reply


def exception_first(name: str = "throttlingException", message: str = "Too many tokens, please wait.") -> Reply:
    """A stream with status 200 whose first message is an exception."""
    return exception_mid_stream(name, message, after=0)


def exception_mid_stream(
    name: str = "modelStreamErrorException",
    message: str = _UNEXPECTED,
    *,
    after: int = 4,
    reply: Reply | None = None,
    **extra: Any,
) -> Reply:
    """A stream of `after` chunks, then an exception, which ends it. `extra` are other fields of its payload."""
    return _ending_with(exception_message(name, message, **extra), after, reply)


def exception_as_event(
    name: str = "throttlingException", message: str = "Too many tokens.", *, after: int = 4, reply: Reply | None = None
) -> Reply:
    """A stream of `after` chunks, then an exception sent as an event of that name."""
    return _ending_with(event_message(name, AwsError(name, message).body()), after, reply)


def unmodelled_error(
    code: str = "InternalFailure", message: str = "An internal error", *, after: int = 4, reply: Reply | None = None
) -> Reply:
    """A stream of `after` chunks, then an error that is not in the service model."""
    return _ending_with(error_message(code, message), after, reply)


def with_message(message: bytes, *, at: int = 4, reply: Reply | None = None) -> Reply:
    """A complete stream with one more message, before the chunk at index `at`; -1 is the last."""

    def change(frames: list[bytes]) -> Iterable[bytes]:
        return [*frames[:at], message, *frames[at:]]

    return _with_chunks(reply, change)


def unknown_event(*, at: int = 4, reply: Reply | None = None) -> Reply:
    """A complete stream with an event of an unknown type."""
    return with_message(event_message("somethingNew", b'{"new":true}'), at=at, reply=reply)


def metrics_apart(*, first: bool = False, reply: Reply | None = None) -> Reply:
    """The metrics in a chunk of their own without a `type`: after all others, or before them."""

    def change(frames: list[bytes]) -> Iterable[bytes]:
        events = [*frames[:-1], chunk(b'{"type":"message_stop"}')]
        return [metrics_chunk(), *events] if first else [*events, metrics_chunk()]

    return _with_chunks(reply, change)


def all_at_once(reply: Reply | None = None) -> Reply:
    """All messages in one write."""
    return _with_chunks(reply, lambda frames: [b"".join(frames)])


def bad_checksum(*, at: int = 4, prelude: bool = False, reply: Reply | None = None) -> Reply:
    """A stream in which one message has a wrong checksum, in its end or in its prelude."""

    def change(frames: list[bytes]) -> Iterable[bytes]:
        damaged = bytearray(frames[at])
        damaged[8 if prelude else -1] ^= 1
        return [*frames[:at], bytes(damaged), *frames[at + 1 :]]

    return _with_chunks(reply, change)


def absurd_length(length: int = 0xFFFF_FFFF, *, at: int = 4, reply: Reply | None = None) -> Reply:
    """A stream with a message that claims this length, with a valid prelude checksum; then zeros, up to that length."""

    def change(frames: list[bytes]) -> Iterable[bytes]:
        yield from frames[:at]
        yield with_checksum(length.to_bytes(4, "big") + bytes(4))
        for _ in range(0, length, _BATCH):
            yield bytes(_BATCH)

    return _with_chunks(reply, change)


def large_event(size: int = 1_000_000) -> Reply:
    """A complete stream with one chunk whose event has about `size` bytes of text."""
    return with_message(chunk(text_delta("a" * size)))


def large_event_stream(size: int = 200_000_000, text: str = "All work and no play makes a dull stream. ") -> Reply:
    """A complete stream of at least `size` bytes: text deltas of `text`, encoded while they are sent."""

    def pieces(request: ParsedRequest) -> Iterator[bytes]:
        whole = list(chunks(Content((TextBlock("."),)), request))
        delta = chunk(text_delta(text))
        batch = delta * max(1, _BATCH // len(delta))
        yield b"".join(whole[:2])
        for _ in range(-(-size // len(batch))):
            yield batch
        yield b"".join(whole[-3:])

    return Reply(body=Lazy(pieces))


def _ending_with(message: bytes, after: int, reply: Reply | None) -> Reply:
    return _with_chunks(reply, lambda frames: [*frames[:after], message])


def _with_chunks(reply: Reply | None, change: Callable[[list[bytes]], Iterable[bytes]]) -> Reply:
    original = Reply(body=Content((TextBlock(_TEXT),))) if reply is None else reply
    body = original.body
    if not isinstance(body, Content):
        raise TypeError("reply: its body must be `Content`, such as that of `text(...)`")
    return replace(original, body=Lazy(lambda request: change(list(chunks(body, request)))))
