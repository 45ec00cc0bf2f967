"""The key by which the requests of a conversation go to the target that has their prompt in its cache. Pure.

Prompt caches belong to one account of an upstream and to one model, and hold a prefix: the tools, then the system
prompt, then the messages. So the key is that of the session, where a client names it, or else of the beginning of the
prompt, up to the end of the first turn, which all later turns repeat.

A key is two checksums of 32 bits. A cryptographic hash would take two to five times as long for nothing: where two
conversations have the same key, they only share a target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from zlib import crc32

import msgspec

from bud_asgi.exchange import Exchange
from bud_asgi.protocol.malformed import MALFORMED_JSON
from bud_asgi.protocol.request import MessagesRequest, Span

SESSION_HEADERS = (
    b"x-claude-code-session-id",  # Claude Code
    b"x-session-affinity",  # OpenCode, Crush
    b"x-session-id",  # the same, and others
    b"session-id",  # Codex
    b"x-amp-thread-id",  # Amp
    b"x-litellm-session-id",  # clients made for LiteLLM, such as OpenHands
)
"""The headers that name a session; the first that is present counts. None of them changes within a conversation."""

SMALLEST_CACHED = 3600
"""Bytes of a body that hold about 1024 tokens, the shortest prefix that is cached by any model of Anthropic's."""

MAX_TOOLS = MAX_SYSTEM = 16 << 10
"""How much of the tools and of the system prompt is part of a key, in bytes."""

MAX_TURN = 32 << 10
"""How much of the first turn is part of a key, in bytes."""

_AROUND = 1 << 10  # bytes of JSON in which the first text of a turn begins
_CACHE_CONTROL = b'"cache_control"'

# Claude Code's attribution, the first block of its system prompt, changes with each request; it is not cached.
_ATTRIBUTION = re.compile(
    rb'\[\s*+\{\s*+(?:"type"\s*+:\s*+"text"\s*+,\s*+)?"text"\s*+:\s*+"x-anthropic-billing-header[^"\\]*+(?:\\.[^"\\]*+)*+"'
    rb"[^{}]*+\}\s*+,?+",
    re.DOTALL,
)

# Quotes within a string are escaped, so `"role":` is always a key. The blocks of a user's content have no such key.
_OPENING = re.compile(rb'\[\s*+(?=\{\s*+("role"\s*+:)?)')
_NEXT_TURN = re.compile(rb'\}\s*+,\s*+\{\s*+"(?:role|content)"\s*+:')
_ROLE_AT_END = re.compile(rb'"role"\s*+:\s*+"[a-z]++"\s*+\}')
_MARK = re.compile(rb'"cache_control"\s*+:\s*+\{[^{}]*+\}\s*+,?+')
_FIRST_TEXT = re.compile(rb'"(?:text|content|data)"\s*+:\s*+(?=")')


class _Block(msgspec.Struct, frozen=True, gc=False):
    """What a model reads of a block, of whatever kind it is."""

    text: msgspec.Raw = msgspec.Raw()
    source: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()


class _Turn(msgspec.Struct, frozen=True, gc=False):
    content: msgspec.Raw


class _TurnOfBlocks(msgspec.Struct, frozen=True, gc=False):
    content: list[_Block]


_decode_turn = msgspec.json.Decoder(_Turn).decode
_decode_blocks = msgspec.json.Decoder(_TurnOfBlocks).decode


def affinity_key(exchange: Exchange) -> int | None:
    """The key of a request's conversation, 64 bits; `None` where there is nothing to cache.

    That is: for a request to count tokens, and for a short prompt without `cache_control`. The request must have been
    read, and its body not released. Call it only for a route with more than one target.

    The name of a session counts together with its caller: other callers may use the same one. The beginning of a prompt
    counts alone: callers that send the same one share an account of the upstream, and so its cache.
    """
    request = exchange.decoded_request
    if request.counting:
        return None
    model = request.model if exchange.route is None else exchange.route.model
    headers = exchange.headers
    for name in SESSION_HEADERS:
        session = headers.get(name)
        if session:
            caller = "" if exchange.principal is None else exchange.principal.id
            return crc32(f"{model}\0{caller}".encode()) << 32 | crc32(session)
    body = request.body
    if len(body) < SMALLEST_CACHED and _CACHE_CONTROL not in body:
        return None
    return _application(request, model) << 32 | _conversation(request)


def _application(request: MessagesRequest, model: str) -> int:
    """The checksum of the model, the tools, and the system prompt without the attribution."""
    body, spans = request.body, request.spans
    view = memoryview(body)
    checksum = crc32(model.encode())
    if span := spans.get("tools"):
        checksum = crc32(_part(view, span, MAX_TOOLS), checksum)
    if span := spans.get("system"):
        start, end = span
        attribution = _ATTRIBUTION.match(body, start, end)
        checksum = crc32(_part(view, (attribution.end() if attribution else start, end), MAX_SYSTEM), checksum)
    return checksum


def _conversation(request: MessagesRequest) -> int:
    """The checksum of the first turn."""
    checksum = 0
    for part in _first_turn(request.body, request.spans.get("messages", (0, 0))):
        checksum = crc32(part, checksum)
    return checksum


def _first_turn(body: bytes, messages: Span) -> Iterator[memoryview]:
    """What the first turn contains, without what surrounds it.

    Many clients move `cache_control` to the latest turns, and write a text as a block where it has one and as a string
    where not. Of a long turn the beginning of its first text is taken, as it stands.
    """
    start, end = messages
    limit = min(end, start + _AROUND + MAX_TURN + _AROUND)
    begin, stop = _turn_span(body, (start, limit), is_whole=limit == end)
    content = _content(body[begin:stop]) if stop else None
    if content is not None:
        for value in content:
            yield memoryview(value)[:MAX_TURN]
        return
    text = _FIRST_TEXT.search(body, begin, min(limit, begin + _AROUND))
    beginning = body[text.end() if text else begin : stop or limit]
    yield memoryview(_MARK.sub(b"", beginning))[:MAX_TURN]


def _turn_span(body: bytes, window: Span, *, is_whole: bool) -> Span:
    """Where the first turn begins and ends; the end is 0 if it is not within the window."""
    start, limit = window
    opening = _OPENING.match(body, start, limit)
    if opening is None:
        return start, 0
    begin = opening.end()
    if opening[1]:
        following = _NEXT_TURN.search(body, begin, limit)
        stop = following.start() + 1 if following else 0
    else:
        role = _ROLE_AT_END.search(body, begin, limit)
        stop = role.end() if role else 0
    return begin, stop or (body.rfind(b"}", begin, limit) + 1 if is_whole else 0)


def _content(turn: bytes) -> list[msgspec.Raw] | None:
    """The values of a turn's content; `None` for what is not a turn."""
    try:
        blocks = _decode_blocks(turn).content
    except msgspec.ValidationError:  # a string, as a rule
        with suppress(*MALFORMED_JSON):
            return [_decode_turn(turn).content]
        return None
    except MALFORMED_JSON:
        return None
    return [value for block in blocks for value in (block.text, block.source, block.content) if value]


def _part(view: memoryview, span: Span, size: int) -> memoryview:
    return view[span[0] : min(span[1], span[0] + size)]
