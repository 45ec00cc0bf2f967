"""The common request body, decoded and validated in one pass of the decoder: small, all fields known.

It has no field that concerns the account or that some service rejects, and no model besides `model`. Whatever is
uncertain here is left to `decode_request`, which finds the words for what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from bud_asgi.protocol.account_fields import ACCOUNT_FIELDS
from bud_asgi.protocol.fields import FIELDS, MAX_MODEL_NAME
from bud_asgi.protocol.malformed import MALFORMED_JSON

PLAIN_FIELDS = FIELDS.keys() - ACCOUNT_FIELDS.keys() - {"compaction", "container", "thread"}
"""The known fields that every service accepts, and that neither change the bill nor name state of one account."""

MAX_PLAIN = 1 << 13
"""The size in bytes up to which the passes over a whole body cost less than looking at each of its values."""
MAX_SPACED = 1 << 11
"""The same for a body with whitespace between its tokens, which takes two more passes."""

_TYPES: Mapping[tuple[str, ...], object] = {
    ("string",): str | UnsetType | None,
    ("array",): list[Raw] | UnsetType | None,
    ("object",): dict[str, Raw] | UnsetType | None,
    ("string", "array"): str | list[Raw] | UnsetType | None,
    ("string", "object"): str | dict[str, Raw] | UnsetType | None,
}
_Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_decode_share = msgspec.json.Decoder(Annotated[float, Meta(ge=0, le=1)]).decode


class PlainFields(msgspec.Struct, omit_defaults=True, gc=False):
    """The fields that the gateway reads, and those whose numbers have bounds; the decoded struct has all others too.

    A null where only an absent field is valid is left out by the encoder, so that the size differs.
    """

    messages: Raw
    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_NAME)]
    max_tokens: _Count | None = None
    stream: bool | None = None
    top_k: _Count | UnsetType | None = UNSET
    temperature: Raw = Raw()
    top_p: Raw = Raw()


_others = [
    (name, _TYPES[field.kinds], UNSET)
    for name, field in FIELDS.items()
    if name in PLAIN_FIELDS and name not in PlainFields.__struct_fields__
]
_All = msgspec.defstruct("_All", _others, bases=(PlainFields,), forbid_unknown_fields=True)
_decode = msgspec.json.Decoder(cast("type[PlainFields]", _All)).decode
_encode = msgspec.json.Encoder().encode
_BACKSLASH = ord("\\")


def plain_fields(body: bytes) -> PlainFields | None:
    """The fields of a body that is valid except that `max_tokens` may be missing; `None` where that is uncertain.

    Expects valid UTF-8. Its keys are compared by size: the encoder writes each pair in the fewest bytes, and the
    decoder drops all but the last of equal keys. A body of exactly the encoded size has neither whitespace nor these.
    One with whitespace between its tokens is taken without it.
    """
    try:
        known = _decode(body)
        encoded = _encode(known)
        if len(encoded) != len(body):
            compact = msgspec.json.format(body, indent=-1) if len(body) <= MAX_SPACED else body
            return plain_fields(compact) if len(compact) < len(body) else None
        if known.temperature:
            _decode_share(known.temperature)
        if known.top_p:
            _decode_share(known.top_p)
    except MALFORMED_JSON:
        return None
    if encoded[:14] != b'{"messages":[{':
        return None
    # A key `model` of any case, or one with escaped letters, may name a further model.
    is_escaped = _BACKSLASH in body and (body.find(b"\\u004") >= 0 or body.find(b"\\u006") >= 0)
    return known if not is_escaped and body.lower().count(b'"model"') == 1 else None
