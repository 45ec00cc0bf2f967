"""Every reader of JSON reads a body as the gateway does: as the client sent it, and after every edit."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bodies import body, decode, refusal
from support.calls import BODY
from support.captured import Captured, wire
from support.counts import examples

from bud_asgi import Anthropic, Bedrock, Vertex
from bud_asgi.protocol.fields import FIELDS

SPELLINGS = [
    "Model",
    "MODEL",
    r"M\u006fdel",
    r"mod\u0045l",
    "Max_Tokens",
    "max_token\u017f",
    r"max_token\u017f",
    "\u017ftream",
    "STREAM",
    "Spee\u0064\u200b",
    "too\u006cS",
    "top_\u212a",
    "TOP_K",
    "topK",
    "maxTokens",
    "max-tokens",
    "Fallbacks",
    "MCP_servers",
    "mcpServers",
    "\uff4dodel",
    r"model\u0000x",
    "th\u0131nking",
    "Service_Tier",
    "Anthropic_Version",
    "anthropic-beta",
    "amazon-bedrock-guardrailconfig",
    "Amazon-Bedrock-GuardrailConfig",
    "user-profile-id",
    "Billing_Policy",
]


@pytest.mark.parametrize("key", SPELLINGS)
def test_a_key_that_an_upstream_may_take_for_a_known_one_is_refused(key: str) -> None:
    message = refusal(body(f',"{key}":"x"'.encode()))
    name = json.loads(f'"{key}"')
    assert message.startswith(f"{name}: Extra inputs are not permitted; write ")


@pytest.mark.parametrize("key", SPELLINGS)
def test_a_known_field_beside_another_spelling_of_it_is_refused(key: str) -> None:
    app = Captured(providers=[Anthropic(base_url="http://127.0.0.1:1")])
    known = '"top_k":5,"stream":true,"tools":[],"speed":"fast","thinking":{},"fallbacks":[],"mcp_servers":[]'
    for more in (f',{known},"{key}":1', f',"{key}":1,{known}'):
        assert app.post(body(more.encode())).status == 400
        assert app.requests == []


UNKNOWN = [
    "safeguards",
    "X",
    "models",
    "modelx",
    "Safeguards",
    "a-b",
    "模型",
    "mo",
    "n",
    "stop",
    "max_token",
    "",
    "\u0000",
    "é",
]


@pytest.mark.parametrize("key", UNKNOWN)
def test_other_unknown_keys_are_forwarded(key: str) -> None:
    app = Captured(providers=[Anthropic(base_url="http://127.0.0.1:1")])
    sent = json.dumps({**BODY, key: 1}, ensure_ascii=False).encode()
    app.post(sent)
    assert wire(app.requests[0]) == sent


def test_a_long_key_is_no_spelling_of_a_known_one_and_costs_nothing() -> None:
    assert decode(body(b',"' + "\ufdfa".encode() * 300_000 + b'":1')).model == "m"


Reader = Callable[[bytes], dict[str, Any]]


def first_wins(sent: bytes) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for key, value in json.loads(sent, object_pairs_hook=lambda pairs: pairs):
        read.setdefault(key, value)
    return read


def ignoring_case(fold: Callable[[str], str]) -> Reader:
    """Go's and .NET's way: a key that equals a field without case sets the field, and the last one counts."""
    by_fold = {fold(name): name for name in FIELDS}

    def read(sent: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {}
        pairs: list[tuple[str, Any]] = json.loads(sent, object_pairs_hook=lambda pairs: pairs)
        for key, value in pairs:
            found[by_fold.get(fold(key), key)] = value
        return found

    return read


READERS: dict[str, Reader] = {
    "the last wins": lambda sent: dict(json.loads(sent, object_pairs_hook=lambda pairs: pairs)),
    "the first wins": first_wins,
    "without case": ignoring_case(str.casefold),
    "upper case": ignoring_case(str.upper),
    "lower case": ignoring_case(str.lower),
    "character by character": ignoring_case(lambda key: "".join([c.upper().lower() for c in key])),
    "without delimiters": ignoring_case(lambda key: key.casefold().replace("_", "").replace("-", "")),
    "normalised": ignoring_case(lambda key: unicodedata.normalize("NFKC", key)),
    "until a NUL": ignoring_case(lambda key: key.split("\0")[0]),
}


def providers() -> list[Any]:
    class Credentials:
        token, expiry, valid = "t", None, True

    return [
        Anthropic(base_url="http://127.0.0.1:1"),
        Bedrock(region="us-east-1", bearer_token="k", drop_fields=["metadata"]),
        Vertex(project="p", credentials=cast("Any", Credentials())),
    ]


APPS = [Captured(providers=[provider], field_policy={"speed": "drop"}) for provider in providers()]
_known = st.sampled_from(
    ["model", "max_tokens", "stream", "top_k", "speed", "user_profile_id", "metadata", "tools", "thinking"]
)
_key = st.one_of(
    _known,
    _known,
    _known.map(str.upper),
    _known.map(lambda key: key.replace("s", "\u017f").replace("k", "\u212a")),
    _known.map(lambda key: key.replace("_", "-")),
    _known.map(lambda key: key + "\0"),
    st.sampled_from(["x", "safeguards", "X"]),
)
_values: dict[str, list[str]] = {
    "model": ['"claude-opus-4-8"', '"claude-haiku-4-5"'],
    "max_tokens": ["1", "2"],
    "stream": ["true", "false"],
    "top_k": ["1", "2"],
    "metadata": ['{"user_id":"a"}', '{"user_id":"b"}'],
    "tools": ["[]", '[{"name":"x","input_schema":{}}]'],
    "thinking": ['{"type":"adaptive"}', '{"type":"disabled"}'],
}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bodies with the required fields, and with keys in other spellings, twice, and with escapes."""
    keys = ["model", "messages", "max_tokens", *draw(st.lists(_key, max_size=3))]
    parts: list[str] = []
    for key in draw(st.permutations(keys)):
        plain = key.casefold().replace("-", "_").strip("\0")
        value = (
            '[{"role":"user","content":"x"}]'
            if key == "messages"
            else draw(st.sampled_from(_values.get(plain, ['"x"'])))
        )
        escaped = "".join(f"\\u{ord(c):04x}" if draw(st.integers(0, 5)) == 0 else json.dumps(c)[1:-1] for c in key)
        parts.append(f'"{escaped}":{value}')
    return ("{" + ",".join(parts) + "}").encode()


@pytest.mark.torture
@examples(50, 50_000)
@given(bodies())
def test_all_readers_read_every_accepted_body_alike_before_and_after_edits(sent: bytes) -> None:
    for app in APPS:
        app.post(sent)
        for request in app.requests:
            for stage in (sent, wire(request)):
                found = [
                    {name: value for name, value in read(stage).items() if name in FIELDS} for read in READERS.values()
                ]
                assert found[1:] == found[:-1]
            if app is APPS[0]:
                assert json.loads(wire(request)).get("model") == json.loads(sent)["model"]
