"""A Messages request as one to Bedrock's InvokeModel or CountTokens: its model, its path, its body. Pure.

Sources: AWS, "InvokeModel", "CountTokens", "Supported Regions and models for inference profiles"; vendor page "Claude
on Amazon Bedrock".
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence

import msgspec

from bud_asgi.http import Body
from bud_asgi.http.wire import content_length
from bud_asgi.protocol.errors import NotFound, RequestTooLarge
from bud_asgi.protocol.request import MessagesRequest, splice
from bud_asgi.providers.compat.features import Adaptation
from bud_asgi.providers.compat.model_ids import base_id_in, bedrock_base_id, claude_name, generation, is_native

_IDENTIFIER = re.compile(r"(?!arn:)[0-9A-Za-z][0-9A-Za-z._:-]{0,2047}|arn:aws[0-9A-Za-z._:/-]{1,2040}")


class BedrockModel(msgspec.Struct, frozen=True):
    """A model on Bedrock: the `identifier` that is called, and its `name` at Anthropic, which tells what it can."""

    identifier: str
    name: str

    @property
    def base_id(self) -> str:
        """The id of the foundation model, which alone is counted with."""
        return base_id_in(self.identifier) or bedrock_base_id(self.name)


def find_model(asked: str, client_asked: str, model_ids: Mapping[str, str], prefix: str) -> BedrockModel:
    """The model that is meant by `asked`: an id of Anthropic's, an id or ARN of Bedrock's, or a key of `model_ids`.

    `prefix` is that of the inference profiles, empty for base ids. Where neither it nor the identifier tells the model,
    `client_asked` does. Raises `NotFound` for a name that none could have.
    """
    identifier = model_ids.get(asked)
    if identifier is None:
        named = bedrock_base_id(asked)
        identifier = asked if is_native(asked) else f"{prefix}.{named}" if prefix else named
    if not is_identifier(identifier):
        raise NotFound(f"model: {client_asked}")
    base_id = base_id_in(identifier)
    if base_id is not None:
        return BedrockModel(identifier, claude_name(base_id))
    return BedrockModel(identifier, asked if generation(asked) else client_asked)


def is_identifier(identifier: str) -> bool:
    """Whether a path may hold it: what has no slash, or is an ARN."""
    return _IDENTIFIER.fullmatch(identifier) is not None


def path_of(identifier: str, operation: str) -> bytes:
    """The path of an operation: only the slash of an ARN is encoded."""
    return f"/model/{identifier.replace('/', '%2F')}/{operation}".encode()


def invoke_body(
    request: MessagesRequest, bridged: Adaptation, more: Mapping[str, bytes]
) -> Sequence[bytes | memoryview]:
    """The body of InvokeModel: no `model`, no `stream`, the beta flags in a list. `more` are fields to set."""
    changed = {**bridged.changed, **more}
    if bridged.betas:
        changed["anthropic_beta"] = msgspec.json.encode(bridged.betas)
    return splice(request, without=bridged.without | {"model", "stream"}, changed=changed)


def count_body(request: MessagesRequest, bridged: Adaptation, more: Mapping[str, bytes]) -> bytes:
    """The body of CountTokens: that of InvokeModel in base64. It must have `max_tokens`, which counts for nothing."""
    if request.max_tokens is None:
        more = {**more, "max_tokens": b"%d" % (_thinking_budget(request) + 1)}
    inner = b"".join(invoke_body(request, bridged, more))
    return b'{"input":{"invokeModel":{"body":"%b"}}}' % b64encode(inner)


def check_size(body: Body, limit: int) -> None:
    """Raise `RequestTooLarge` for a body of more than `limit` bytes."""
    if content_length(body) > limit:
        raise RequestTooLarge(f"Request exceeds the maximum size of {limit} bytes")


class _Thinking(msgspec.Struct, frozen=True):
    budget_tokens: int | None = None


_decode_thinking = msgspec.json.Decoder(_Thinking | None).decode


def _thinking_budget(request: MessagesRequest) -> int:
    """How many tokens may be thought, which `max_tokens` must be above."""
    try:
        thinking = _decode_thinking(request.value("thinking") or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return max(0, thinking.budget_tokens or 0) if thinking else 0
