"""A stand-in for Claude on Amazon Bedrock: its signatures, event stream and errors, and its faults."""

from bud_asgi.testing.bedrock.faults import (
    absurd_length,
    access_denied,
    all_at_once,
    aws_error,
    bad_checksum,
    exception_as_event,
    exception_first,
    exception_mid_stream,
    large_event,
    large_event_stream,
    metrics_apart,
    model_error,
    unknown_event,
    unmodelled_error,
    with_message,
)
from bud_asgi.testing.bedrock.keys import AwsKey, AwsKeys
from bud_asgi.testing.bedrock.service import Bedrock

__all__ = [
    "AwsKey",
    "AwsKeys",
    "Bedrock",
    "absurd_length",
    "access_denied",
    "all_at_once",
    "aws_error",
    "bad_checksum",
    "exception_as_event",
    "exception_first",
    "exception_mid_stream",
    "large_event",
    "large_event_stream",
    "metrics_apart",
    "model_error",
    "unknown_event",
    "unmodelled_error",
    "with_message",
]
