"""The Vertex AI provider: its options, and the requests that it encodes."""

from __future__ import annotations

import json
import ssl
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bodies import body
from support.counts import examples

from bud_asgi.http import HttpRequest, Timeouts
from bud_asgi.protocol.errors import GatewayError, InvalidRequest, NotFound, RequestTooLarge
from bud_asgi.protocol.headers import merge_headers
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers.seam import EncodedRequest, ProviderRequest
from bud_asgi.providers.vertex.provider import Vertex, host_of

MODEL = "claude-opus-4-8"
HEADERS = merge_headers(
    [
        (b"host", b"gateway"),
        (b"authorization", b"Bearer client"),
        (b"x-api-key", b"client"),
        (b"cookie", b"a=b"),
        (b"x-goog-user-project", b"clients"),
        (b"anthropic-version", b"2023-06-01"),
        (b"anthropic-workspace-id", b"wrkspc"),
        (b"anthropic-new", b"thing"),
    ]
)
PARENT = "/v1/projects/p/locations/global/publishers/anthropic/models"


def vertex(**options: Any) -> Vertex:
    given: dict[str, Any] = {"project": "p", **options}
    return Vertex(**given)


def call(
    sent: bytes | None = None,
    *,
    model: str | None = None,
    betas: str = "",
    version: str = "2023-06-01",
    counting: bool = False,
) -> ProviderRequest:
    """Return a request with this body, by default a small one for `MODEL`."""
    headers = {**HEADERS, b"anthropic-version": version.encode()}
    if betas:
        headers[b"anthropic-beta"] = betas.encode()
    whole = body(model=json.dumps(MODEL).encode()) if sent is None else sent
    return ProviderRequest(decode_request(whole, counting=counting), headers, model)


def encoded(provider: Vertex | None = None, sent: bytes | None = None, **more: Any) -> EncodedRequest:
    return (provider or vertex()).encode(call(sent, **more))


def wire(request: HttpRequest) -> bytes:
    return request.body if isinstance(request.body, bytes) else b"".join(request.body)


def named(model: str) -> bytes:
    return body(model=json.dumps(model).encode())


def test_the_model_goes_into_the_path_and_the_version_into_the_body() -> None:
    request = encoded().request
    assert (request.method, request.target) == (b"POST", f"{PARENT}/{MODEL}:rawPredict".encode())
    assert wire(request) == b'{"messages":[{}],"max_tokens":1,"anthropic_version":"vertex-2023-10-16"}'
    assert tuple(request.headers) == (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"bud_asgi"),
    )
    assert (request.origin.host, request.origin.port) == ("aiplatform.googleapis.com", 443)
    assert request.origin.tls is not None
    assert request.origin.tls.verify_mode == ssl.CERT_REQUIRED
    assert request.timeouts == Timeouts(5.0, 600.0, 300.0)
    assert encoded().dropped == ()


def test_a_stream_has_its_own_method() -> None:
    sent = body(b', "stream" : true', model=b'"claude-opus-5"')
    request = encoded(sent=sent).request
    assert request.target == f"{PARENT}/claude-opus-5:streamRawPredict".encode()
    assert wire(request) == b'{"messages":[{}],"max_tokens":1, "stream" : true,"anthropic_version":"vertex-2023-10-16"}'


@pytest.mark.parametrize(
    ("version", "sent_as"),
    [("2023-06-01", "vertex-2023-10-16"), ("2026-10-21", "2026-10-21"), ("2099-1-1", "2099-1-1")],
)
def test_the_version_is_sent_under_its_name_there(version: str, sent_as: str) -> None:
    assert json.loads(wire(encoded(version=version).request))["anthropic_version"] == sent_as


def test_a_version_in_the_body_stays() -> None:
    sent = body(b',"anthropic_version":"2026-10-21"', model=b'"claude-opus-5"')
    assert wire(encoded(sent=sent).request) == b'{"messages":[{}],"max_tokens":1,"anthropic_version":"2026-10-21"}'


LOCATIONS = {
    "global": "aiplatform.googleapis.com",
    "us": "aiplatform.us.rep.googleapis.com",
    "eu": "aiplatform.eu.rep.googleapis.com",
    "us-east5": "us-east5-aiplatform.googleapis.com",
    "europe-west1": "europe-west1-aiplatform.googleapis.com",
}


@pytest.mark.parametrize(("region", "host"), LOCATIONS.items())
def test_a_location_determines_the_host_and_the_path(region: str, host: str) -> None:
    request = encoded(vertex(region=region)).request
    assert request.origin.host == host == host_of(region)
    assert request.target.startswith(f"/v1/projects/p/locations/{region}/publishers/".encode())


@pytest.mark.parametrize(
    ("base_url", "prefix"),
    [
        ("https://us-east5-aiplatform.p.googleapis.com", ""),
        ("https://proxy.example:8443/v1/", ""),
        ("http://127.0.0.1:1/vertex/v1", "/vertex"),
        ("http://127.0.0.1:1/v1beta", "/v1beta"),
    ],
)
def test_a_base_url_replaces_the_host(base_url: str, prefix: str) -> None:
    request = encoded(vertex(base_url=base_url, region="us-east5", count_region="us-east4")).request
    assert base_url.partition("//")[2].startswith(request.origin.authority.decode())
    assert request.target.startswith(f"{prefix}/v1/projects/p/locations/us-east5/".encode())


def test_every_request_has_the_same_origin_so_that_connections_are_shared() -> None:
    provider = vertex()
    origins = {id(encoded(provider, counting=counting).request.origin) for counting in (False, False, True, True)}
    assert len(origins) == 1


NAMES = {
    "claude-haiku-4-5": "claude-haiku-4-5@20251001",
    "claude-haiku-4-5-20251001": "claude-haiku-4-5@20251001",
    "claude-sonnet-4-20250514": "claude-sonnet-4@20250514",
    "claude-opus-4-8": "claude-opus-4-8",
    "claude-opus-4-6": "claude-opus-4-6",
    "claude-sonnet-4-3-20250101": "claude-sonnet-4-3@20250101",
    "claude-opus-9-9": "claude-opus-9-9",
    "claude-opus-4-8@default": "claude-opus-4-8@default",
    "claude-haiku-4-5@20251001": "claude-haiku-4-5@20251001",
    "claude-opus-4-8[1m]": "claude-opus-4-8",
    "claude-haiku-4-5[200K]": "claude-haiku-4-5@20251001",
    "claude-opus-4-0": "claude-opus-4@20250514",
    "claude-3-7-sonnet-latest": "claude-3-7-sonnet@20250219",
    "us.anthropic.claude-haiku-4-5-20251001-v1:0": "claude-haiku-4-5@20251001",
}


@pytest.mark.parametrize(("model", "there"), NAMES.items())
def test_a_model_is_sent_under_its_id_there(model: str, there: str) -> None:
    assert encoded(sent=named(model)).request.target == f"{PARENT}/{there}:rawPredict".encode()
    assert encoded(model=model).request.target == f"{PARENT}/{there}:rawPredict".encode()


NOT_NAMES = [
    "claude-x/../../y?a=b#c",
    "claude-%2F..%2F..%2Fgoogle",
    "claude-x:predict",
    "claude \r\n",
    "é",
    "a\0",
    "..",
    "@a",
    "-x",
    "claude@a@b",
    "x[1m]",
]


@pytest.mark.parametrize("model", NOT_NAMES)
def test_nothing_but_a_name_is_written_into_the_path(model: str) -> None:
    for counting in (False, True):
        with pytest.raises(NotFound, match=r"^model: "):
            encoded(sent=named(model), counting=counting)
        with pytest.raises(NotFound, match=r"^model: claude-a$"):
            encoded(sent=named("claude-a"), model=model, counting=counting)


def test_a_single_region_lists_no_model_that_only_wider_locations_have() -> None:
    for wide in ("global", "us", "eu"):
        assert {"claude-opus-4-8", "claude-opus-5-5", "claude-sonnet-4-6"} <= set(vertex(region=wide).models)
    regional = set(vertex(region="us-east5").models)
    assert {"claude-sonnet-4-6", "claude-opus-4-6", "claude-haiku-4-5-20251001"} <= regional
    assert not {"claude-opus-4-7", "claude-opus-4-8", "claude-opus-5-5", "claude-fable-5"} & regional


def test_a_project_of_a_domain_is_encoded() -> None:
    request = encoded(vertex(project="example.com:proj/x")).request
    assert request.target.startswith(b"/v1/projects/example.com%3Aproj%2Fx/locations/")


def test_the_model_is_in_the_body_when_counting_tokens() -> None:
    sent = b'{ "model" : "claude-haiku-4-5" , "messages":[{}]}'
    request = encoded(sent=sent, counting=True).request
    assert request.target == f"{PARENT}/count-tokens:rawPredict".encode()
    assert wire(request) == (
        b'{ "model" : "claude-haiku-4-5@20251001" , "messages":[{}],"anthropic_version":"vertex-2023-10-16"}'
    )
    same = encoded(sent=b'{"model":"claude-opus-4-8","messages":[{}]}', counting=True).request
    assert wire(same).startswith(b'{"model":"claude-opus-4-8","messages":[{}]')


@pytest.mark.parametrize("alias", ["default", "latest"])
def test_an_alias_is_resolved_when_counting_tokens(alias: str) -> None:
    request = encoded(sent=named(f"claude-sonnet-4-6@{alias}"), counting=True).request
    assert json.loads(wire(request))["model"] == "claude-sonnet-4-6"


def test_tokens_may_be_counted_in_another_region() -> None:
    provider = vertex(region="global", count_region="us-east5")
    counted, made = encoded(provider, counting=True).request, encoded(provider).request
    assert counted.origin.host == "us-east5-aiplatform.googleapis.com"
    assert counted.target == b"/v1/projects/p/locations/us-east5/publishers/anthropic/models/count-tokens:rawPredict"
    assert (made.origin.host, b"/locations/global/" in made.target) == ("aiplatform.googleapis.com", True)


def betas_of(made: EncodedRequest) -> list[str]:
    return [value.decode() for name, value in made.request.headers if name == b"anthropic-beta"]


def test_supported_betas_are_sent_as_a_header() -> None:
    made = encoded(betas="interleaved-thinking-2025-05-14, oauth-2025-04-20,context-1m-2025-08-07")
    assert betas_of(made) == ["interleaved-thinking-2025-05-14,context-1m-2025-08-07"]
    assert made.dropped == ("oauth-2025-04-20",)
    assert betas_of(encoded(betas="oauth-2025-04-20,new-thing-2031-01-01")) == []


def test_a_beta_may_have_another_name_there() -> None:
    made = encoded(betas="advanced-tool-use-2025-11-20")
    assert (betas_of(made), made.dropped) == (["tool-search-tool-2025-10-19"], ())


def test_betas_in_the_body_are_sent_as_a_header() -> None:
    sent = body(b',"anthropic_beta":["compact-2026-01-12"]', model=b'"claude-opus-5"')
    made = encoded(sent=sent, betas="context-1m-2025-08-07")
    assert betas_of(made) == ["context-1m-2025-08-07,compact-2026-01-12"]
    assert b"anthropic_beta" not in wire(made.request)


def test_few_betas_are_sent_when_counting_tokens() -> None:
    made = encoded(counting=True, betas="compact-2026-09-04,context-1m-2025-08-07,token-counting-2024-11-01")
    assert betas_of(made) == ["compact-2026-09-04"]
    assert made.dropped == ("context-1m-2025-08-07", "token-counting-2024-11-01")


def test_the_operator_can_allow_betas_and_drop_fields() -> None:
    provider = vertex(allow_betas=["files-api-2025-04-14"], drop_fields=["metadata"])
    sent = body(b',"metadata":{"user_id":"u"}', model=b'"claude-opus-5"')
    made = encoded(provider, sent, betas="files-api-2025-04-14")
    assert betas_of(made) == ["files-api-2025-04-14"]
    assert made.dropped == ("metadata",)
    assert b"metadata" not in wire(made.request)


def test_a_beta_and_its_field_are_both_sent_or_both_left_out() -> None:
    sent = body(b',"context_management":{"edits":[]}', model=b'"claude-opus-5"')
    both = encoded(sent=sent, betas="context-management-2025-06-27")
    assert betas_of(both) == ["context-management-2025-06-27"]
    assert b'"context_management":{"edits":[]}' in wire(both.request)
    sent = body(b',"speed":"fast"', model=b'"claude-opus-5"')
    neither = encoded(sent=sent, betas="fast-mode-2026-02-01")
    assert (betas_of(neither), neither.dropped) == ([], ("fast-mode-2026-02-01", "speed"))
    assert b"speed" not in wire(neither.request)
    sent = body(b',"mcp_servers":[{}]', model=b'"claude-opus-5"')
    with pytest.raises(InvalidRequest, match="mcp_servers: Extra inputs are not permitted"):
        encoded(sent=sent, betas="mcp-client-2025-11-20")


def test_a_thread_is_rejected_so_that_clients_continue_without() -> None:
    with pytest.raises(GatewayError) as refused:
        encoded(sent=body(b',"thread":{"type":"new"}', model=b'"claude-opus-5"'), betas="message-threads-2026-08-12")
    assert refused.value.details == {"error_code": "thread_unsupported_request", "unsupported": ["platform"]}


def test_only_the_scope_of_a_breakpoint_is_removed() -> None:
    messages = (
        b'[{"role":"user","content":[{"type":"text", "text":"\\u0061 \xc3\xa9","cache_control":'
        b'{"type":"ephemeral","scope":"global","ttl":"1h"}}]}]'
    )
    sent = body(model=b'"claude-opus-5"', messages=messages)
    block = json.loads(wire(encoded(sent=sent).request))["messages"][0]["content"][0]
    assert block["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert b'"text":"\\u0061 \xc3\xa9"' in wire(encoded(sent=sent).request)


SPACES = st.sampled_from([b"", b" ", b"\n\t "])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Generate bodies with unknown fields, in any order, with whitespace and escapes."""
    unknown = draw(st.dictionaries(st.text().map(lambda name: f"x_{name}"), VALUES, max_size=5))
    known = {"model": MODEL, "messages": [{"content": draw(VALUES)}], "max_tokens": 1}
    fields = draw(st.permutations([*known.items(), *unknown.items()]))
    parts = [
        draw(SPACES)
        + json.dumps(name, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")
        + draw(SPACES)
        + b":"
        + draw(SPACES)
        + json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")
        + draw(SPACES)
        for name, value in fields
    ]
    return b"{" + b",".join(parts) + b"}"


HERE = vertex()


@given(sent=bodies())
@examples(50, 2_000)
def test_every_other_field_is_unchanged(sent: bytes) -> None:
    try:
        asked = call(sent)
    except InvalidRequest:
        return  # a lone surrogate
    fields = msgspec.json.decode(sent, type=dict[str, msgspec.Raw])
    there = msgspec.json.decode(wire(HERE.encode(asked).request), type=dict[str, msgspec.Raw])
    assert bytes(there.pop("anthropic_version")) == b'"vertex-2023-10-16"'
    fields.pop("model")
    assert [(name, bytes(value)) for name, value in there.items()] == [
        (name, bytes(value)) for name, value in fields.items()
    ]


def test_nothing_large_is_copied() -> None:
    messages = b'[{"content":"' + b"a" * 1_000_000 + b'"}]'
    parts = encoded(sent=body(model=b'"claude-opus-5"', messages=messages)).request.body
    assert not isinstance(parts, bytes)
    assert max(len(part) for part in parts if isinstance(part, bytes)) < 100


def test_a_request_that_is_too_large_is_rejected() -> None:
    def sized(size: int) -> bytes:
        start = b'{"model":"claude-opus-5","max_tokens":1,"messages":[{"content":"'
        return start + b"a" * size + b'"}]}'

    added = len(wire(encoded(sent=sized(0)).request))
    assert encoded(sent=sized(30_000_000 - added)).request.body
    with pytest.raises(RequestTooLarge) as refused:
        encoded(sent=sized(30_000_001 - added))
    assert str(refused.value) == "Request exceeds the maximum size of 30000000 bytes"
    assert (refused.value.status, refused.value.type) == (413, "request_too_large")


def test_its_repr_shows_no_key() -> None:
    provider = vertex(name="v", service_account_info=KEY)
    assert repr(provider) == "Vertex(name='v', project='p', region='global')"
    assert provider.models_request() is None
    assert provider.models[0].startswith("claude-")
    assert {"claude-opus-5", "claude-haiku-4-5-20251001"} <= set(provider.models)
    assert "claude-mythos-preview" not in provider.models


KEY = {"type": "service_account", "client_email": "a@b", "private_key": "SECRET", "token_uri": "http://127.0.0.1:1/"}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "^name: expected a string"),
    "no project": ({"project": ""}, "^project: expected the id"),
    "a project with a line end": ({"project": "p\n"}, "^project: expected the id"),
    "a location with a path": ({"region": "us/../x"}, '^region: expected a location.* got "us/../x"$'),
    "no location": ({"region": ""}, '^region: expected a location.* got ""$'),
    "no location to count in": ({"count_region": "Us"}, '^count_region: expected a location.* got "Us"$'),
    "no URL": ({"base_url": "ftp://x"}, "http or https URL"),
    "no port": ({"base_url": "https://x:0"}, "must be printable"),
    "a password": ({"base_url": "https://a:SECRET@x"}, "must not contain a user"),
    "TLS without": (
        {"base_url": "http://x", "tls": ssl.create_default_context()},
        "^tls: can only be used with an https base_url$",
    ),
    "two credentials": (
        {"service_account_file": "x", "service_account_info": KEY},
        "^service_account_file: cannot be combined with service_account_info$",
    ),
    "no key": (
        {"service_account_info": {"private_key": "SECRET"}},
        "^service_account_info: not a service account's key$",
    ),
    "no quota project": ({"quota_project": "a b"}, "quota_project"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_could_not_be_called_is_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        vertex(**options)
    assert "SECRET" not in str(raised.value)


def test_the_operator_sets_the_timeouts_and_the_tls_context() -> None:
    tls, timeouts = ssl.create_default_context(), Timeouts(1.0, 2.0, 3.0)
    request = encoded(vertex(tls=tls, timeouts=timeouts)).request
    assert (request.origin.tls, request.timeouts) == (tls, timeouts)
