"""Encodes a Messages request for Bedrock's InvokeModel or CountTokens: model, path, body. Pure.

Sources: AWS, "InvokeModel", "CountTokens", "Supported Regions and models for inference profiles"; vendor page "Claude
on Amazon Bedrock".
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping

import msgspec

from bud_asgi.http import Body
from bud_asgi.http.wire import content_length
from bud_asgi.protocol.account_fields import BEDROCK_FIELDS, account_field
from bud_asgi.protocol.errors import InvalidRequest, NotFound, RequestTooLarge
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.request import MessagesRequest, splice
from bud_asgi.providers.bedrock.profiles import profile_of
from bud_asgi.providers.compat.features import Adaptation
from bud_asgi.providers.compat.model_ids import base_id_in, bedrock_base_id, claude_name, generation, is_native

_IDENTIFIER = re.compile(
    r"(?!.*(?:\.\.|//))(?:(?!arn:)[0-9A-Za-z][0-9A-Za-z._:-]{0,2047}|arn:aws[0-9A-Za-z._:/-]{1,2040})"
)


class BedrockModel(msgspec.Struct, frozen=True):
    """A model on Bedrock: its `identifier` there, and Anthropic's `name` for it, which determines its features."""

    identifier: str
    name: str

    @property
    def base_id(self) -> str:
        """The id of the foundation model: CountTokens accepts no other."""
        return base_id_in(self.identifier) or bedrock_base_id(self.name)


class ModelMap(msgspec.Struct, frozen=True):
    """Maps the names of models to identifiers on Bedrock, for one region.

    `ids` are the operator's own, by model name: they serve every name of that model, unless another entry names it.
    For other models `profile` is the prefix of the inference profile, empty for the base id; `None` is the one that the
    model has in the region.
    """

    region: str
    profile: str | None = None
    ids: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        """Add Anthropic's ids for the models in `ids`."""
        by_id = {claude_name(bedrock_base_id(name)): identifier for name, identifier in self.ids.items()}
        msgspec.structs.force_setattr(self, "ids", by_id | dict(self.ids))

    def identifier(self, model: str) -> str | None:
        """Return the identifier of a model; `None` if it has no inference profile in the region."""
        base_id = bedrock_base_id(model)
        given = self.ids.get(model) or self.ids.get(claude_name(base_id))
        if given is not None or is_native(model):
            return given or model
        prefix = profile_of(base_id, self.region) if self.profile is None else self.profile
        if prefix is None:
            return None
        return f"{prefix}.{base_id}" if prefix else base_id


def find_model(model: str, client_model: str, models: ModelMap) -> BedrockModel:
    """Find the model named `model`: Anthropic's id, a Bedrock id or ARN, or a name that the operator has mapped.

    If neither the identifier nor `model` reveals which Claude model it is, `client_model` is assumed to. Raises
    `NotFound` for a name that cannot be a model's, and for a model that has no inference profile in the region.
    """
    identifier = models.identifier(model)
    if identifier is None:
        raise NotFound(f"model: {client_model} is not available in the AWS region {models.region}")
    if not is_identifier(identifier):
        raise NotFound(f"model: {client_model}")
    known_base_id = base_id_in(identifier)
    if known_base_id is not None:
        return BedrockModel(identifier, claude_name(known_base_id))
    return BedrockModel(identifier, model if generation(model) else client_model)


def is_identifier(identifier: str) -> bool:
    """Return whether a string is safe in a path: it has no slash, or it is an ARN."""
    return _IDENTIFIER.fullmatch(identifier) is not None


def path_of(identifier: str, operation: str) -> bytes:
    """Return the path of an operation. Only the slashes of an ARN are percent-encoded."""
    return f"/model/{identifier.replace('/', '%2F')}/{operation}".encode()


def check_no_guardrail_fields(request: MessagesRequest) -> None:
    """Raise `InvalidRequest` for a field of Bedrock's own: it could change how the operator's guardrail applies."""
    for key in request.spans:
        if account_field(key) == BEDROCK_FIELDS:
            raise InvalidRequest(f"{key}: Extra inputs are not permitted")


def invoke_body(request: MessagesRequest, adapted: Adaptation, more: Mapping[str, bytes]) -> Body:
    """Return the body of InvokeModel: without `model` and `stream`, with the beta flags and the fields in `more`."""
    changed = {**adapted.changed, **more}
    if adapted.betas:
        changed["anthropic_beta"] = msgspec.json.encode(adapted.betas)
    return splice(request, without=adapted.without | {"model", "stream"}, changed=changed)


def count_body(request: MessagesRequest, adapted: Adaptation, more: Mapping[str, bytes]) -> bytes:
    """Return the body of CountTokens: that of InvokeModel in base64.

    It must have `max_tokens`, whose value does not change the count.
    """
    if request.max_tokens is None:
        more = {**more, "max_tokens": b"%d" % (_thinking_budget(request) + 1)}
    body = invoke_body(request, adapted, more)
    inner = body if isinstance(body, bytes) else b"".join(body)
    return b'{"input":{"invokeModel":{"body":"%b"}}}' % b64encode(inner)


def check_size(body: Body, limit: int) -> None:
    """Raise `RequestTooLarge` if a body has more than `limit` bytes."""
    if content_length(body) > limit:
        raise RequestTooLarge(f"Request exceeds the maximum size of {limit} bytes")


class _Thinking(msgspec.Struct, frozen=True):
    budget_tokens: int | None = None


_decode_thinking = msgspec.json.Decoder(_Thinking | None).decode


def _thinking_budget(request: MessagesRequest) -> int:
    """Return the thinking budget, which `max_tokens` must exceed."""
    try:
        thinking = _decode_thinking(request.value("thinking") or b"null")
    except MALFORMED_JSON:
        return 0
    return max(0, thinking.budget_tokens or 0) if thinking else 0
