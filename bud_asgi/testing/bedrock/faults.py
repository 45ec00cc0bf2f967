"""What Bedrock says when it fails, and event streams that are broken; the faults of `faults` work here as well.

`reply` is what gets broken: a reply that streams, a friendly text unless told. Each is for `enqueue` and `always`.
Texts as observed; they hold account numbers and ARNs, as the real ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from bud_asgi.testing.anthropic.messages import Asked, Content, TextBlock
from bud_asgi.testing.bedrock.errors import AwsError
from bud_asgi.testing.bedrock.frames import sealed
from bud_asgi.testing.bedrock.keys import ACCOUNT
from bud_asgi.testing.bedrock.models import Place, route_of
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

_SAID = "The stand-in tells a story that is long enough to be broken somewhere in its middle, and it does not mind."
_PIECE = 64 << 10
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


def aws_error(name: str, words: str | None = None, **more: Any) -> Reply:
    """An error of the service by its name, such as `ThrottlingException`; `more` are other fields of its body."""
    return AwsError(name, _TEXTS[name] if words is None else words, tuple(more.items())).reply()


def model_error(status: int, words: str) -> Reply:
    """The model's own error, told through the service: `ModelErrorException` with the model's status."""
    arn = f"arn:aws:bedrock:us-east-1:{ACCOUNT}:inference-profile/us.anthropic.claude-opus-4-8"
    return aws_error("ModelErrorException", words, originalStatusCode=status, resourceName=arn)


def access_denied(account: str = ACCOUNT, region: str = "us-east-1") -> Callable[[Received], Reply]:
    """The caller's role may not do this: a text with the ARN of the caller and that of the model."""

    def reply(received: Received) -> Reply:
        route = route_of(received)
        asked = Place(account, region, None, {}).arn(route.identifier) if route else "*"
        action = f"bedrock:{route.operation if route else 'InvokeModel'}"
        words = (
            f"User: arn:aws:sts::{account}:assumed-role/stand-in/session is not authorized to perform: {action} on "
            f"resource: {asked} because no identity-based policy allows the {action} action"
        )
        return AwsError("AccessDeniedException", words, field="Message").reply()

    return reply


def exception_first(name: str = "throttlingException", words: str = "Too many tokens, please wait.") -> Reply:
    """A 200 stream whose first message is an exception."""
    return exception_mid_stream(name, words, after=0)


def exception_mid_stream(
    name: str = "modelStreamErrorException",
    words: str = _UNEXPECTED,
    *,
    after: int = 4,
    reply: Reply | None = None,
    **more: Any,
) -> Reply:
    """A stream of `after` chunks and then an exception, which ends it; `more` are other fields of its payload."""
    return _ended_by(exception_message(name, words, **more), after, reply)


def exception_as_event(
    name: str = "throttlingException", words: str = "Too many tokens.", *, after: int = 4, reply: Reply | None = None
) -> Reply:
    """An exception that comes as an event of its name."""
    return _ended_by(event_message(name, AwsError(name, words).body()), after, reply)


def unmodelled_error(
    code: str = "InternalFailure", words: str = "An internal error", *, after: int = 4, reply: Reply | None = None
) -> Reply:
    """A stream of `after` chunks and then an unmodelled error."""
    return _ended_by(error_message(code, words), after, reply)


def with_message(message: bytes, *, at: int = 4, reply: Reply | None = None) -> Reply:
    """A whole stream with one more message in it, before the chunk at this place; -1 is the last."""

    def change(made: list[bytes]) -> Iterable[bytes]:
        return [*made[:at], message, *made[at:]]

    return _changed(reply, change)


def unknown_event(*, at: int = 4, reply: Reply | None = None) -> Reply:
    """A whole stream with an event in it that nobody knows."""
    return with_message(event_message("somethingNew", b'{"new":true}'), at=at, reply=reply)


def metrics_apart(*, first: bool = False, reply: Reply | None = None) -> Reply:
    """The metrics in a chunk of their own, which has no type: behind all others, or before them."""

    def change(made: list[bytes]) -> Iterable[bytes]:
        whole = [*made[:-1], chunk(b'{"type":"message_stop"}')]
        return [metrics_chunk(), *whole] if first else [*whole, metrics_chunk()]

    return _changed(reply, change)


def all_at_once(reply: Reply | None = None) -> Reply:
    """All messages in one write."""
    return _changed(reply, lambda made: [b"".join(made)])


def bad_checksum(*, at: int = 4, prelude: bool = False, reply: Reply | None = None) -> Reply:
    """A stream with one message whose checksum is wrong: that of the message, or that of its prelude."""

    def change(made: list[bytes]) -> Iterable[bytes]:
        wrong = bytearray(made[at])
        wrong[8 if prelude else -1] ^= 1
        return [*made[:at], bytes(wrong), *made[at + 1 :]]

    return _changed(reply, change)


def absurd_length(length: int = 0xFFFF_FFFF, *, at: int = 4, reply: Reply | None = None) -> Reply:
    """A stream with a message that says it is so long, with the right checksum; zeros follow, as many as are read."""

    def change(made: list[bytes]) -> Iterable[bytes]:
        yield from made[:at]
        yield sealed(length.to_bytes(4, "big") + bytes(4))
        for _ in range(0, length, _PIECE):
            yield bytes(_PIECE)

    return _changed(reply, change)


def large_event(size: int = 1_000_000) -> Reply:
    """A whole stream with one chunk whose event has about `size` bytes of text."""
    return with_message(chunk(text_delta("a" * size)))


def large_event_stream(size: int = 200_000_000, said: str = "All work and no play makes a dull stream. ") -> Reply:
    """A whole stream of at least `size` bytes, made of text deltas that all say `said`, made while it is sent."""

    def pieces(asked: Asked) -> Iterator[bytes]:
        around = list(chunks(Content((TextBlock("."),)), asked))
        one = chunk(text_delta(said))
        batch = one * max(1, _PIECE // len(one))
        yield b"".join(around[:2])
        for _ in range(-(-size // len(batch))):
            yield batch
        yield b"".join(around[-3:])

    return Reply(body=Lazy(pieces))


def _ended_by(message: bytes, after: int, reply: Reply | None) -> Reply:
    return _changed(reply, lambda made: [*made[:after], message])


def _changed(reply: Reply | None, change: Callable[[list[bytes]], Iterable[bytes]]) -> Reply:
    given = Reply(body=Content((TextBlock(_SAID),))) if reply is None else reply
    body = given.body
    if not isinstance(body, Content):
        raise TypeError("only a reply that says something can be broken so")
    return replace(given, body=Lazy(lambda asked: change(list(chunks(body, asked)))))
