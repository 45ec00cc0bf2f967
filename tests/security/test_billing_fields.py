"""Callers do not choose whom the operator's account bills, and the operator decides about what changes the price."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bodies import body, decode
from support.calls import BODY, UPSTREAM_KEY
from support.captured import Captured, wire
from support.counts import examples

from bud_asgi import Anonymous, Anthropic, Bedrock, HostUser, MessagesApp, Vertex
from bud_asgi.cli.summary import show_settings
from bud_asgi.config import ConfigError, read_file
from bud_asgi.options import OptionError
from bud_asgi.protocol.account_fields import ACCOUNT_FIELDS
from bud_asgi.protocol.request import edited, splice

PROFILE = {"anthropic-user-profile-id": "up_1"}
ACCOUNT_HEADERS = [
    ("anthropic-user-profile-id", "user_profile_id"),
    ("anthropic-user_profile_id", "user_profile_id"),
    ("Anthropic_User-Profile-ID", "user_profile_id"),
    ("anthropic-workspace-id", "workspace_id"),
    ("ANTHROPIC-WORKSPACE-ID", "workspace_id"),
    ("anthropic-workspace_id", "workspace_id"),
    ("anthropic_workspace_id", "workspace_id"),
    ("anthropic-workspace.id", "workspace_id"),
]
ACCOUNT_BODY = {
    "user_profile_id": "up_1",
    "billing_policy": {"type": "billing_policy", "bill_to": "user_profile"},
    "workspace_id": "wrkspc_1",
}
GUARDRAIL = {"amazon-bedrock-guardrailConfig": {"tagSuffix": "x", "streamProcessingMode": "ASYNCHRONOUS"}}
FORWARDED: dict[str, Any] = {
    "service_tier": "auto",
    "speed": "fast",
    "inference_geo": "us",
    "mcp_servers": [{"type": "url", "url": "https://example.com", "name": "x"}],
    "fallbacks": [{"model": "claude-haiku-5-5", "speed": "fast"}],
    "fallback_credit_token": "fct_1",
}


def anthropic(**options: Any) -> Anthropic:
    return Anthropic(api_key=UPSTREAM_KEY, **options)


def bedrock(**options: Any) -> Bedrock:
    return Bedrock(region="us-east-1", bearer_token="bedrock-api-key", **options)


def vertex() -> Vertex:
    class Credentials:
        token, expiry, valid = "t", None, True

    made: Any = Credentials()
    return Vertex(project="p", credentials=made)


def dropped(app: Captured, fields: dict[str, Any], headers: dict[str, str] | None = None) -> list[str]:
    reply = app.post({**BODY, **fields}, headers)
    assert reply.status == 502, reply.body
    return reply.headers.get(b"bud-dropped", b"").decode().split(", ")


@pytest.mark.parametrize(("header", "name"), ACCOUNT_HEADERS)
def test_a_header_cannot_choose_whom_the_account_bills(header: str, name: str) -> None:
    app = Captured(providers=[anthropic()])
    assert dropped(app, {}, {header: "x_1"}) == [name]
    assert "x_1" not in app.headers.values()
    app = Captured(providers=[bedrock()])
    assert dropped(app, {}, {header: "x_1"}) == [name]
    assert "x_1" not in str((app.headers, app.body))


@pytest.mark.parametrize("name", ACCOUNT_BODY)
@pytest.mark.parametrize("make", [anthropic, bedrock])
def test_a_field_of_the_body_cannot_choose_whom_the_account_bills(make: Any, name: str) -> None:
    app = Captured(providers=[make()])
    assert dropped(app, {name: ACCOUNT_BODY[name]}) == [name]
    assert name not in app.body


def test_the_rest_of_the_body_keeps_its_bytes() -> None:
    app = Captured(providers=[anthropic()])
    sent = rb'{ "model":"m","x": 1.50,"user_pr\u006ffile_id":"up_1" ,"max_tokens":1e0,"messages":[ {"a":"\u0061"}] }'
    app.post(sent)
    assert wire(app.requests[0]) == (rb'{ "model":"m","x": 1.50 ,"max_tokens":1e0,"messages":[ {"a":"\u0061"}]}')


def test_a_client_that_pays_itself_chooses_itself() -> None:
    app = Captured(providers=[Anthropic(auth="client")], auth=Anonymous())
    headers = {"anthropic-workspace-id": "wrkspc_1", **PROFILE}
    assert dropped(app, ACCOUNT_BODY, headers) == [""]
    assert {**app.headers, **headers} == app.headers
    assert app.body == {**BODY, **ACCOUNT_BODY}
    app = Captured(providers=[Anthropic(auth="client")], auth=Anonymous(), field_policy={"workspace_id": "drop"})
    assert dropped(app, ACCOUNT_BODY, headers) == ["workspace_id"]


def test_user_profiles_of_bedrock_are_for_the_header_and_the_body_alike() -> None:
    for allowed in (False, True):
        app = Captured(providers=[bedrock(user_profiles=allowed)])
        expected = "up_1" if allowed else None
        for fields, headers in (({}, PROFILE), ({"user_profile_id": "up_1"}, {})):
            assert dropped(app, fields, headers) == ["" if allowed else "user_profile_id"]
            assert app.body.get("user_profile_id") == expected
    app = Captured(providers=[bedrock(user_profiles=True)], field_policy={"user_profile_id": "drop"})
    assert dropped(app, {"user_profile_id": "up_1"}, PROFILE) == ["user_profile_id"]
    app = Captured(providers=[bedrock()], field_policy={"user_profile_id": "forward"})
    assert dropped(app, {}, PROFILE) == [""]
    assert app.body["user_profile_id"] == "up_1"


SPELLINGS = [
    "amazon-bedrock-guardrailConfig",
    "amazon-bedrock-trace",
    "Amazon-Bedrock-x",
    "amazon_bedrock_x",
    "amazonBedrockX",
]


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("make", [anthropic, bedrock, vertex])
def test_fields_of_bedrock_are_refused(make: Any, name: str) -> None:
    app = Captured(providers=[make()])
    error = app.post({**BODY, name: {"tagSuffix": "x"}}).error
    assert (error["type"], error["message"]) == ("invalid_request_error", f"{name}: Extra inputs are not permitted")
    assert app.requests == []


def test_a_caller_cannot_weaken_the_operators_guardrail() -> None:
    allowed: dict[str, Any] = {"field_policy": {"amazon-bedrock-*": "forward"}}
    app = Captured(providers=[bedrock()], **allowed)
    assert dropped(app, GUARDRAIL) == [""]
    assert app.body["amazon-bedrock-guardrailConfig"] == GUARDRAIL["amazon-bedrock-guardrailConfig"]
    app = Captured(providers=[bedrock(guardrail=("gr-1", "1"))], **allowed)
    for name in SPELLINGS:
        assert app.post({**BODY, name: {}}).status == 400
        assert app.requests == []
    app = Captured(providers=[bedrock(guardrail=("gr-1", "1"), client_headers=["x-amzn-bedrock-guardrailidentifier"])])
    assert dropped(app, {}, {"x-amzn-bedrock-guardrailidentifier": "gr-2"}) == [""]
    assert app.headers["x-amzn-bedrock-guardrailidentifier"] == "gr-1"


@pytest.mark.parametrize("name", FORWARDED)
def test_official_fields_are_forwarded_unless_the_operator_decides_otherwise(name: str) -> None:
    fields = {name: FORWARDED[name]}
    sent = json.dumps({**BODY, **fields}).encode()
    app = Captured(providers=[anthropic()])
    app.post(sent)
    assert wire(app.requests[0]) == sent
    app = Captured(providers=[anthropic()], field_policy={name: "drop"})
    assert dropped(app, fields) == [name]
    assert app.body == BODY
    app = Captured(providers=[anthropic()], field_policy={name: "refuse"})
    error = app.post(sent).error
    assert (error["type"], error["message"]) == ("invalid_request_error", f"{name}: Extra inputs are not permitted")
    assert app.requests == []


def test_a_refused_field_counts_in_fallbacks_too() -> None:
    fallbacks = [{"model": "claude-haiku-5-5"}, {"model": "claude-opus-5-5", "Speed": "fast", "max_tokens": 5}]
    app = Captured(providers=[anthropic()], field_policy={"speed": "refuse"})
    error = app.post({**BODY, "fallbacks": fallbacks}).error
    assert error["message"] == "fallbacks.1.Speed: Extra inputs are not permitted"
    app = Captured(providers=[anthropic()], field_policy={"speed": "drop"})
    assert dropped(app, {"fallbacks": fallbacks, "speed": "fast"}) == ["speed"]
    assert app.body == {**BODY, "fallbacks": [fallbacks[0], {"model": "claude-opus-5-5", "max_tokens": 5}]}


def test_a_refused_field_is_refused_as_a_header_and_at_every_provider() -> None:
    for name, header in (("workspace_id", "anthropic-workspace_id"), ("service_tier", "x-amzn-bedrock-service-tier")):
        for provider in (anthropic(), bedrock(client_headers=["x-amzn-bedrock-service-tier"]), vertex()):
            app = Captured(providers=[provider], field_policy={name: "refuse"})
            assert app.post(BODY, {header: "x"}).error["message"].startswith(f"{header}: ")
            assert app.requests == []


WRONG: dict[str, tuple[Any, str]] = {
    "an unknown field": (
        {"sped": "refuse"},
        'field_policy.sped: unknown field (did you mean "speed"?); expected "user_',
    ),
    "an unknown action": ({"speed": "deny"}, 'field_policy.speed: expected "forward", "drop" or "refuse", got "deny"'),
    "a flag": ({"speed": False}, 'field_policy.speed: expected "forward", "drop" or "refuse", got False'),
    "a list": (
        ["speed"],
        'field_policy: expected a mapping of fields to actions, such as {"speed": "refuse"}, got a list',
    ),
    "a string": ("speed", "field_policy: expected a mapping"),
    "a key of another type": ({1: "drop"}, "field_policy.1: unknown field"),
}


@pytest.mark.parametrize(("policy", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_policy_is_refused_when_the_app_is_built(policy: Any, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        MessagesApp(providers=[anthropic()], auth=HostUser(lambda _: "me"), field_policy=policy)
    assert str(raised.value).startswith(message)


FILE = 'allow_anonymous = true\n[providers.a]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n[fields]\n'


def test_the_file_has_the_same_policy(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'{FILE}speed = "refuse"\n"amazon-bedrock-*" = "drop"\n')
    settings = read_file(file, environ={})
    assert settings.fields == {"speed": "refuse", "amazon-bedrock-*": "drop"}
    assert show_settings(settings).endswith(
        "FIELD             ACTION\nspeed             refuse\namazon-bedrock-*  drop"
    )
    file.write_text(f'{FILE}sped = "refuse"\nspeed = "deny"\nservice_tier = 1\n')
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ={})
    names = ", ".join(f'"{name}"' for name in list(ACCOUNT_FIELDS)[:-1]) + f' or "{list(ACCOUNT_FIELDS)[-1]}"'
    assert str(raised.value).splitlines() == [
        f"{file}:{problem}"
        for problem in (
            f'6: fields.sped: unknown field (did you mean "speed"?); expected {names}',
            '7: fields.speed: expected "forward", "drop" or "refuse", got "deny"',
            '8: fields.service_tier: expected "forward", "drop" or "refuse", got 1',
        )
    ]


_values = st.sampled_from([b"1", b'"a"', b"{ }", b'[1, "\\u0061"]', b"null"])
_fields = st.dictionaries(st.sampled_from(["a", "bb", "é", 'q"', "b c"]), _values, max_size=5)


@pytest.mark.torture
@examples(50, 20_000)
@given(
    fields=_fields,
    without=st.sets(st.sampled_from(["a", "bb", "é", "model"])),
    changed=_fields,
    gap=st.sampled_from(["", " "]),
)
def test_an_edited_request_is_the_spliced_one(
    fields: dict[str, bytes], without: set[str], changed: dict[str, bytes], gap: str
) -> None:
    more = b"".join(b"%b,%b:%b" % (gap.encode(), json.dumps(name).encode(), value) for name, value in fields.items())
    request = decode(body(more))
    new = edited(request, without=without, changed=changed)
    assert new.body == splice(request, without=without, changed=changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bud_asgi.protocol.request._MAX_COPIED", 0)
        assert new.body == b"".join(cast("list[bytes]", splice(request, without=without, changed=changed)))
    assert {name: json.loads(new.value(name) or b"") for name in new.spans} == json.loads(new.body)
    assert json.loads(new.body) == {
        name: json.loads(changed.get(name, value))
        for name, value in {**{name: request.value(name) or b"" for name in request.spans}, **changed}.items()
        if name not in without or name not in request.spans
    }
