"""What reaches the upstream: rows 5 to 12, 25, 26, 28, rules 1, 3, 4, 14."""

from __future__ import annotations

from typing import Any

from support.calls import KEY, UPSTREAM_KEY

from bud_asgi import Anonymous, Anthropic
from bud_asgi.testing import json_body
from contract.line import ALIAS, CREDENTIAL, PLAIN, TYPE, UPSTREAM_NAME, VERSION, Line, Lines, body

CACHED = {"type": "ephemeral"}


def _goes_up_as_it_is(line: Line, content: bytes, *more: tuple[str, str]) -> None:
    """The body, and the headers whose names begin with `anthropic-`, byte for byte."""
    before = len(line.received)
    answer = line.request(content, more=more)
    assert answer.status == 200, answer.body
    (seen,) = line.received[before:]
    assert seen.body == content
    sent = sorted((name.encode(), value.encode()) for name, value in (*VERSION, *more))
    assert sorted((n.lower(), v) for n, v in seen.headers if n.lower().startswith(b"anthropic-")) == sent


def the_version_goes_up_as_it_came(line: Line) -> None:
    """Rule 1: both current versions are accepted, and none is added."""
    for version in ("2023-06-01", "2026-10-21"):
        answer = line.request(headers=[*CREDENTIAL, *TYPE, ("anthropic-version", version)])
        assert answer.status == 200
        assert line.received[-1].values("anthropic-version") == [version.encode()]
    answer = line.request(headers=[*CREDENTIAL, *TYPE])
    assert answer.assert_error(400, "invalid_request_error") == "anthropic-version: header is required"
    assert len(line.received) == 2


def betas_go_up_byte_for_byte(line: Line) -> None:
    """Row 6, rule 4: order, spaces and doubles of the list are kept."""
    _goes_up_as_it_is(line, PLAIN, ("anthropic-beta", "interleaved-thinking-2025-05-14, claude-code-20250219,b ,  a,b"))


def several_lines_of_betas_go_up_as_one(line: Line) -> None:
    """Row 6, rule 4."""
    answer = line.request(more=[("anthropic-beta", "claude-code-20250219"), ("Anthropic-Beta", "oauth-2025-04-20,x-1")])
    assert answer.status == 200
    assert line.the_received().values("anthropic-beta") == [b"claude-code-20250219,oauth-2025-04-20,x-1"]


def betas_never_seen_before_go_up(line: Line) -> None:
    """Row 7."""
    _goes_up_as_it_is(line, PLAIN, ("anthropic-beta", "telepathy-2031-02-03"))
    _goes_up_as_it_is(line, PLAIN)


TOMORROW: dict[str, Any] = {
    "telepathy": {"range": 1e22, "from": None},
    "tools": [{"type": "crystal_ball_20310101", "name": "ball"}, {"name": "t", "input_schema": {"type": "object"}}],
    "messages": [{"role": "user", "content": [{"type": "hologram", "of": "a cat"}, {"type": "text", "text": "Hello"}]}],
}


def unknown_fields_are_forwarded(line: Line) -> None:
    """Row 8, rule 3: fields, blocks, tools."""
    _goes_up_as_it_is(line, body(**TOMORROW), ("anthropic-beta", "telepathy-2031-02-03"))


def headers_of_tomorrow_go_up(line: Line) -> None:
    """Row 9."""
    _goes_up_as_it_is(line, PLAIN, ("anthropic-of-tomorrow", "yes; q=1"), ("anthropic-x", "a, b"))


SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.3; cc_entrypoint=cli;"},
    {"type": "text", "text": "You are Claude Code.", "cache_control": CACHED},
    {"type": "text", "text": "", "cache_control": {**CACHED, "ttl": "1h"}},
]


def the_system_goes_up_entry_by_entry(line: Line) -> None:
    """Row 10, rule 14."""
    _goes_up_as_it_is(line, body(system=SYSTEM))


def messages_and_tools_go_up_in_their_order(line: Line) -> None:
    """Rule 14: also two turns of one role, and thinking that is empty but for its signature."""
    thought = [{"type": "thinking", "thinking": "", "signature": "EqQB/+=="}, {"type": "text", "text": "Yes"}]
    messages = [
        {"role": "user", "content": "One"},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": thought},
        {"role": "system", "content": "The user is in a hurry."},
    ]
    tools = [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("zip", "add", "map")]
    _goes_up_as_it_is(line, body(messages=messages, tools=tools))


def a_warm_up_stays_one(line: Line) -> None:
    """Row 8: `max_tokens` 0 fills the prompt cache and nothing else."""
    _goes_up_as_it_is(line, body(max_tokens=0))


ODD = (
    b'\t{"max_tokens" :64,"model": "'
    + ALIAS.encode()
    + b'" ,"metadata":{"user_id":"\\u00e9\\/"},"messages":[{"content":'
    b'[{"text":"1e2 \xe2\x80\xa8","type":"text"}],"role":"user"}],"tools":[{"name":"t","input_schema":{"type":"object",'
    b'"maximum":123456789012345678901234567890,"minimum":1E+2,"x":-0.0}}]}\r\n'
)


def only_the_model_is_replaced(line: Line) -> None:
    """Row 11: every other byte stays where it is."""
    assert line.request(ODD).status == 200
    assert line.the_received().body == ODD.replace(ALIAS.encode(), UPSTREAM_NAME.encode())


def the_clients_ids_are_written_down(line: Line) -> None:
    """Row 12: the agent is no user, it belongs to one."""
    ids = {"x-claude-code-session-id": "s-1", "x-claude-code-agent-id": "a-2", "x-claude-code-parent-agent-id": "a-1"}
    answer = line.request(more=list(ids.items()))
    assert answer.status == 200
    account = line.account_of(answer)
    assert {name: account.headers.get(name.encode()) for name in ids} == {n: v.encode() for n, v in ids.items()}
    assert account.principal is not None
    assert account.principal.id == "me"


CODE = """<script>alert('x')</script> <?xml version="1.0"?><!DOCTYPE html> <system-reminder>&amp; ../../etc/passwd
'; DROP TABLE users; -- UNION SELECT ${jndi:ldap://x} {{7*7}} $(rm -rf /) \x00
<tool_use name="Bash">%00%0d%0a</tool_use>"""


def code_is_nothing_to_be_afraid_of(line: Line) -> None:
    """Row 25."""
    _goes_up_as_it_is(line, body(messages=[{"role": "user", "content": CODE}], system=f"<env>{CODE}</env>"))


LIMIT = 32 << 20


def bodies_up_to_the_limit_are_taken(line: Line) -> None:
    """Row 26: 32 MB, and above an error that can be read."""
    empty = body(system="", messages=[{"role": "user", "content": "Hello"}])
    whole = empty.replace(b'"system":""', b'"system":"' + b"x" * (LIMIT - len(empty)) + b'"')
    assert len(whole) == LIMIT
    answer = line.request(whole)
    assert answer.status == 200, answer.body[:200]
    assert line.the_received().body == whole
    answer = line.request(whole + b" ")
    answer.assert_error(413, "request_too_large")
    assert answer.headers.get("x-should-retry") == "false"
    assert len(line.received) == 1


def fields_and_betas_go_up_as_pairs(line: Line) -> None:
    """Row 28, rule 4."""
    reference = {"type": "tool_reference", "tool_name": "later"}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [reference]}
    content = body(
        context_management={"edits": [{"type": "clear_tool_uses_20250919", "keep": {"type": "tool_uses", "value": 3}}]},
        output_config={"effort": "xhigh"},
        tools=[
            {"name": "now", "input_schema": {"type": "object"}, "strict": True, "eager_input_streaming": True},
            {"name": "later", "input_schema": {"type": "object"}, "defer_loading": True},
        ],
        messages=[{"role": "user", "content": [result]}],
    )
    betas = "context-management-2025-06-27,effort-2025-11-24,advanced-tool-use-2025-11-20"
    _goes_up_as_it_is(line, content, ("anthropic-beta", betas))


def only_our_credential_is_sent_to_the_upstream(line: Line) -> None:
    """Rule 2 (section 3.1): the client's credential is not forwarded."""
    for form in ("x-api-key", "authorization"):
        proof = [(form, KEY if form == "x-api-key" else f"Bearer {KEY}"), ("cookie", f"session={KEY}")]
        assert line.request(headers=[*proof, *VERSION, *TYPE]).status == 200
        seen = line.received[-1]
        assert seen.values("x-api-key") == [UPSTREAM_KEY.encode()]
        assert not seen.values("authorization") + seen.values("cookie")
        assert KEY.encode() not in b"".join(value for _, value in seen.headers)


OAUTH: Lines = [
    ("authorization", "Bearer sk-ant-oat01-of-somebody"),
    ("anthropic-beta", "oauth-2025-04-20,claude-code-20250219"),
]


def a_clients_own_login_passes_where_that_is_offered_and_is_401_elsewhere(line: Line) -> None:
    """Row 5: the bearer token and its beta are forwarded together, and the upstream's errors about them come back."""
    answer = line.request(headers=[*OAUTH, *VERSION, *TYPE])
    answer.assert_error(401, "authentication_error")
    assert not line.received

    def passing(url: str) -> list[Any]:
        return [Anthropic(base_url=url, auth="client")]

    with line.with_options(providers=passing, auth=Anonymous()) as other:
        assert other.request(headers=[*OAUTH, *VERSION, *TYPE]).status == 200
        seen = other.the_received()
        assert [(name, value.encode()) for name, value in OAUTH] == [(n, v) for n, _ in OAUTH for v in seen.values(n)]
        assert not seen.values("x-api-key")
        for status in (401, 403):
            said = b'{"type":"error", "error":{"type":"authentication_error","message":"OAuth token has expired."}}'
            other.upstream.enqueue(json_body(said, status=status))
            answer = other.request(headers=[*OAUTH, *VERSION, *TYPE])
            assert (answer.status, answer.body) == (status, said)
