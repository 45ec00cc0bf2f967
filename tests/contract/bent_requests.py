"""Proxies that bend requests: what gateways and the boxes before them do to bodies, headers and paths."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from contract.bending import Bender, Forward, Headers, ProxiedReply, ProxiedRequest, passes_on
from contract.known import BETAS, BLOCKS, FIELDS, HEADERS

Fields = dict[str, Any]

_ONE_TOKEN = b'{"model":"claude-haiku-4-5","max_tokens":1,"messages":[{"role":"user","content":"1"}]}'


_AS_IT_WAS: Fields = {"indent": 1, "separators": (" ,", ":")}
"""The spelling that `line.body` has: an edit is all that is changed."""


def _body(edit: Callable[[Fields], Fields], *, spelling: Fields = _AS_IT_WAS) -> Bender:
    """A bender that reads the body as JSON, edits it and writes it anew."""

    async def bend(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
        if not request.body.lstrip().startswith(b"{"):
            return await forward(request)
        written = json.dumps(edit(json.loads(request.body)), **spelling).encode()
        return await forward(replace(request, body=written))

    return bend


def _headers(edit: Callable[[Headers], Headers]) -> Bender:
    """A bender that edits the headers, their names in lower case."""

    async def bend(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
        lines = [(name.lower(), value) for name, value in request.headers]
        return await forward(replace(request, headers=edit(lines)))

    return bend


def _beta(edit: Callable[[list[bytes]], list[bytes]]) -> Bender:
    """A bender that takes the list of betas apart and puts it together again."""

    def bend(lines: Headers) -> Headers:
        rest = [line for line in lines if line[0] != b"anthropic-beta"]
        flags = b",".join(value for name, value in lines if name == b"anthropic-beta").split(b",")
        return [*rest, (b"anthropic-beta", b",".join(edit([flag.strip() for flag in flags])))]

    return _headers(bend)


def _without(*names: bytes) -> Bender:
    return _headers(lambda lines: [line for line in lines if not line[0].startswith(names)])


def _system(fields: Fields, change: Callable[[list[Fields]], object]) -> Fields:
    system = fields.get("system")
    return {**fields, "system": change(system)} if isinstance(system, list) else fields


def _merged(blocks: list[Fields]) -> list[Fields]:
    return [{"type": "text", "text": "\n".join(block["text"] for block in blocks)}]


def _known_blocks(fields: Fields) -> Fields:
    messages = [
        {**m, "content": [b for b in m["content"] if b["type"] in BLOCKS]} if isinstance(m["content"], list) else m
        for m in fields.get("messages", [])
    ]
    return {**fields, "messages": messages}


def _one_turn_each(fields: Fields) -> Fields:
    turns: list[Fields] = []
    for message in fields.get("messages", []):
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']}\n{message['content']}"}
        else:
            turns.append(message)
    return {**fields, "messages": turns}


def _plain_tools(fields: Fields) -> Fields:
    options = ("strict", "defer_loading", "eager_input_streaming")
    tools = [{k: v for k, v in tool.items() if k not in options} for tool in fields.get("tools", [])]
    return {**fields, "tools": tools}


rewrites_the_body = _body(lambda fields: fields, spelling={"ensure_ascii": False, "separators": (",", ":")})
sorts_the_keys = _body(lambda fields: fields, spelling={"sort_keys": True, **_AS_IT_WAS})
drops_unknown_fields = _body(lambda fields: {name: fields[name] for name in fields if name in FIELDS})
drops_unknown_blocks = _body(_known_blocks)
merges_turns = _body(_one_turn_each)
merges_the_system = _body(lambda fields: _system(fields, _merged))
puts_a_system_before = _body(lambda fields: _system(fields, lambda had: [{"type": "text", "text": "Be nice."}, *had]))
makes_the_system_a_string = _body(lambda fields: _system(fields, lambda had: _merged(had)[0]["text"]))
turns_the_system_around = _body(lambda fields: _system(fields, lambda had: had[::-1]))
sorts_the_tools = _body(lambda fields: {**fields, "tools": sorted(fields.get("tools", []), key=str)})
makes_tools_plain = _body(_plain_tools)
always_streams = _body(lambda fields: {**fields, "stream": True})
drops_thinking = _body(lambda fields: {name: fields[name] for name in fields if name != "thinking"})
renames_every_model = _body(lambda fields: {**fields, "model": "claude-sonnet-5"})
gives_tokens_to_a_warm_up = _body(lambda fields: {**fields, "max_tokens": fields.get("max_tokens") or 1024})
forgets_bound_state = _body(
    lambda fields: (
        {name: fields[name] for name in ("model", "max_tokens") if name in fields}
        | {"messages": [{"role": "user", "content": "Hello"}]}
    )
)

keeps_known_betas = _beta(lambda flags: [flag for flag in flags if flag in BETAS])
sorts_the_betas = _beta(sorted)
respells_the_betas = _beta(lambda flags: flags)
adds_a_beta = _beta(lambda flags: [*flags, b"prompt-caching-2024-07-31"])
drops_the_betas = _without(b"anthropic-beta")
drops_the_version = _without(b"anthropic-version")
drops_client_ids = _without(b"x-claude-code-")
drops_the_bearer = _without(b"authorization")
drops_the_key = _without(b"x-api-key")
keeps_one_line_of_each = _headers(lambda lines: list(dict(lines).items()))
keeps_known_headers = _headers(
    lambda lines: [line for line in lines if line[0] in HEADERS or not line[0].startswith(b"anthropic-")]
)
makes_it_the_newest_version = _headers(
    lambda lines: [(n, b"2026-10-21" if n == b"anthropic-version" else value) for n, value in lines]
)
passes_a_client_credential_up = _headers(lambda lines: [*lines, (b"authorization", b"Bearer sk-of-the-client")])


async def supplies_a_version(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Make up the version that is missing."""
    if request.header(b"anthropic-version") is None:
        request = replace(request, headers=[*request.headers, (b"anthropic-version", b"2023-06-01")])
    return await forward(request)


async def escapes_markup(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Disarm what looks like HTML."""
    return await forward(replace(request, body=request.body.replace(b"<", b"&lt;")))


async def negotiates_on_accept(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Stream for those who accept an event stream, and for no others."""
    streams = b"text/event-stream" in (request.header(b"accept") or b"")
    return await _body(lambda fields: {**fields, "stream": streams})(request, forward)


async def counts_by_asking(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Have tokens counted by an inference."""
    if request.path.endswith(b"/count_tokens"):
        counted = {**json.loads(request.body), "max_tokens": 1}
        request = replace(request, target=b"/v1/messages", body=json.dumps(counted).encode())
    return await forward(request)


async def counts_as_a_request(request: ProxiedRequest, forward: Forward) -> ProxiedReply:
    """Let what is counted also cost a request."""
    if request.path.endswith(b"/count_tokens"):
        await passes_on(replace(request, target=b"/v1/messages", body=_ONE_TOKEN), forward)
    return await forward(request)
