"""docs/bedrock.md and docs/vertex.md are followed to the letter: each program and each file serves, each row holds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx
import pytest
from cloud_stage import DOCS, Clouds, blocks, clouds, in_ticks, rows
from config_files import written
from support.calls import KEY

from bud_asgi import Anonymous, Bedrock, MessagesApp, Route, Secret, Target, Vertex, hash_api_key
from bud_asgi.config import read_file
from bud_asgi.protocol.errors import InvalidRequest, NotFound
from bud_asgi.protocol.patterns import matches_any
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers import Provider, ProviderRequest
from bud_asgi.providers.compat.rules import known_rules, service_rules
from bud_asgi.testing import ThreadedStandIn
from bud_asgi.testing.bedrock import aws_error, exception_first, exception_mid_stream, model_error
from bud_asgi.testing.google import google_error
from bud_asgi.testing.server.serving import serving

Service = Literal["bedrock", "vertex"]
SERVICES: tuple[Service, ...] = ("bedrock", "vertex")
PAGES = {service: (DOCS / f"{service}.md").read_text() for service in SERVICES}
CODE = {f"{name}, {n}": snippet for name, page in PAGES.items() for n, snippet in enumerate(blocks(page, "python"), 1)}
FILES = {f"{name}, {n}": snippet for name, page in PAGES.items() for n, snippet in enumerate(blocks(page, "toml"), 1)}
PROVIDERS: dict[Service, Provider] = {"bedrock": Bedrock(region="us-east-1"), "vertex": Vertex(project="p")}
HEADERS = {b"anthropic-version": b"2023-06-01"}
ASKED: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "Hello"}],
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Generator[Clouds]:
    with pytest.MonkeyPatch.context() as patch, clouds(patch, tmp_path_factory.mktemp("clouds")) as both:
        yield both


def call(app: MessagesApp) -> None:
    """What a user would do with it: a message and a stream, by the official SDK."""
    with serving(app) as url, anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        question: Any = {**ASKED, "model": "claude-opus-4-8"}
        message = client.messages.create(**question)
        assert message.id.startswith(("msg_bdrk_", "msg_vrtx_"))
        with client.messages.stream(**question) as stream:
            assert stream.get_final_text()


@pytest.mark.parametrize("snippet", CODE.values(), ids=CODE.keys())
def test_each_program_serves_the_official_sdk(snippet: str, there: Clouds) -> None:
    names: dict[str, Any] = {}
    exec(there.in_code(snippet, hash_api_key(KEY)), names)
    if "messages" in names:
        call(names["messages"])
    else:
        assert len(names["ways"]) >= 4


@pytest.mark.parametrize("snippet", FILES.values(), ids=FILES.keys())
def test_each_file_serves_the_official_sdk(snippet: str, there: Clouds) -> None:
    text = there.in_file(snippet, hash_api_key(KEY))
    alone = "" if "[[keys]]" in text or "allow_anonymous" in text else "allow_anonymous = true\n"
    call(read_file(written(Path.cwd(), alone + text), environ=os.environ).app())


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_each_way_to_a_credential_is_the_same_in_a_file(page: str, there: Clouds) -> None:
    names: dict[str, Any] = {}
    (code,) = [snippet for snippet in blocks(page, "python") if "ways" in snippet]
    (file,) = [snippet for snippet in blocks(page, "toml") if snippet.count("[providers.") > 2]
    exec(there.in_code(code, ""), names)
    text = "allow_anonymous = true\n" + there.in_file(file, "")
    providers = read_file(written(Path.cwd(), text), environ=os.environ).providers
    credentials = [one.credential for one in names["ways"]]
    in_code = [
        one for one in credentials if vars(one).get("_given") is None and "credentials of the host" not in repr(one)
    ]
    assert list(map(described, in_code)) == [described(one.credential) for one in providers]


def described(credential: Any) -> object:
    """What it is made of, without where a file stands."""
    fields = vars(credential)
    file = fields.get("_file")
    return repr(credential), file and file.name, fields.get("_quota_project")


MODELS = [(service, *row) for service, page in PAGES.items() for row in rows(page, "requested model")]


@pytest.mark.parametrize(("service", "asked", "called"), MODELS)
def test_each_model_is_called_as_documented(service: Service, asked: str, called: str) -> None:
    for name in in_ticks(asked):
        request = decode_request(json.dumps({**ASKED, "model": name}).encode())
        target = PROVIDERS[service].encode(ProviderRequest(request, HEADERS)).request.target.decode()
        (expected,) = in_ticks(called) or [name]
        assert f"/{expected.replace('/', '%2F')}{'/invoke' if service == 'bedrock' else ':rawPredict'}" in target


@pytest.mark.parametrize(("regions", "profile"), rows(PAGES["bedrock"], "region"))
def test_each_region_has_the_documented_profile(regions: str, profile: str) -> None:
    request = decode_request(json.dumps({**ASKED, "model": "claude-opus-5-5"}).encode())
    for region in in_ticks(regions):
        target = Bedrock(region=region).encode(ProviderRequest(request, HEADERS)).request.target
        assert target == f"/model/{in_ticks(profile)[0]}.anthropic.claude-opus-5-5/invoke".encode()


@pytest.mark.parametrize(("pair", "profile"), rows(PAGES["bedrock"], "model and region"))
def test_each_model_has_the_documented_profile_in_a_region(pair: str, profile: str) -> None:
    model, region = in_ticks(pair)
    call = ProviderRequest(decode_request(json.dumps({**ASKED, "model": model}).encode()), HEADERS)
    if profile == "none":
        with pytest.raises(NotFound, match=f"^model: {model} is not available in the AWS region {region}$"):
            Bedrock(region=region).encode(call)
    else:
        target = Bedrock(region=region).encode(call).request.target.decode()
        assert target.startswith(f"/model/{in_ticks(profile)[0]}.anthropic.")


@pytest.mark.parametrize(("regions", "hosts"), rows(PAGES["vertex"], "region"))
def test_each_location_has_the_documented_host(regions: str, hosts: str) -> None:
    found = [Vertex(project="p", region=region).base_url for region in in_ticks(regions)]
    assert found == [f"https://{host}" for host in in_ticks(hosts)]


EDITS = [(service, *row) for service, page in PAGES.items() for row in rows(page, "a request with")]


@pytest.mark.parametrize(("service", "given", "sent", "dropped"), EDITS)
def test_each_edit_is_made_as_documented(service: Service, given: str, sent: str, dropped: str) -> None:
    (fields,) = in_ticks(given)
    before = json.loads(f"{{{fields}}}")
    after = json.loads(f"{{{''.join(in_ticks(sent))}}}")
    written = PROVIDERS[service].encode(
        ProviderRequest(decode_request(json.dumps({**ASKED, **before}).encode()), HEADERS)
    )
    sent_body = written.request.body
    found = json.loads(sent_body if isinstance(sent_body, bytes) else b"".join(sent_body))
    version = {"anthropic_version": found["anthropic_version"]}
    assert found == {"max_tokens": 9, "messages": ASKED["messages"], **version, **after}
    assert list(written.dropped) == in_ticks(dropped)


@pytest.mark.parametrize("service", SERVICES)
def test_all_edits_are_documented(service: Service) -> None:
    table = "\n".join("".join(row) for row in rows(PAGES[service], "a request with"))
    for name in service_rules(service).edits:
        assert all(part in table for part in name.split(".")), name


@pytest.mark.parametrize("service", SERVICES)
def test_all_unsupported_fields_are_documented(service: Service) -> None:
    rules = service_rules(service)
    (paragraph,) = re.findall(r"\*\*Fields\.\*\* Dropped, (.*?)\n\n", PAGES[service], re.DOTALL)
    for action, words in zip(("drop", "reject"), paragraph.split("Rejected, because"), strict=True):
        fields = {name: rule.flags for name, rule in rules.fields.items() if rule.if_unsupported == action}
        travelling = {name for name, flags in fields.items() if any(matches_any(flags, flag) for flag in rules.betas)}
        always, _, sometimes = words.partition("; also")
        assert set(in_ticks(always)) & set(rules.fields) == fields.keys() - travelling
        assert set(in_ticks(sometimes)) & set(rules.fields) == travelling


@pytest.mark.parametrize("service", SERVICES)
def test_a_field_is_rejected_with_the_documented_message(service: Service) -> None:
    request = decode_request(json.dumps({**ASKED, "mcp_servers": []}).encode())
    with pytest.raises(InvalidRequest) as refused:
        PROVIDERS[service].encode(ProviderRequest(request, HEADERS))
    assert f"`{refused.value}`" in PAGES[service].replace("\n", " ")


@pytest.mark.parametrize("service", SERVICES)
def test_all_supported_flags_are_documented(service: Service) -> None:
    rules = service_rules(service)
    (paragraph,) = re.findall(r"\*\*Beta flags\.\*\* (.*?)\n\n", PAGES[service], re.DOTALL)
    travel, _, counting = paragraph.partition("When counting tokens")
    assert set(in_ticks(travel)) - {"bud-dropped"} == set(rules.betas)
    assert set(in_ticks(counting)) == set(rules.counting_betas or ())
    renamed = {flag: rule.sent_as for flag, rule in rules.betas.items() if rule.sent_as}
    found = re.findall(r"`([\w-]+)` \(as (.*?), from\s+generation", travel, re.DOTALL)
    assert {flag: tuple(in_ticks(names)) for flag, names in found} == renamed


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_known_and_how_large_a_request_may_be(service: Service) -> None:
    page, size = PAGES[service], f"{service_rules(service).max_body:,}".replace(",", " ")
    assert f"({size} bytes) is a 413" in page
    assert f"as of {known_rules().as_of}" in page


class Served:
    """Both clouds behind a gateway."""

    def __init__(self, url: str, there: Clouds) -> None:
        self.url = url
        self.upstreams: dict[Service, ThreadedStandIn] = {"bedrock": there.bedrock, "vertex": there.vertex}

    def post(self, service: Service, path: str = "", **more: Any) -> httpx.Response:
        """One request, whose model's name leads to that service."""
        headers = {name.decode(): value.decode() for name, value in HEADERS.items()}
        body = {**ASKED, "model": f"claude-at-{service}", **more}
        if path == "/count_tokens":
            del body["max_tokens"]
        return httpx.post(f"{self.url}/v1/messages{path}", headers=headers, json=body, timeout=30)


@pytest.fixture(scope="module")
def served(there: Clouds) -> Generator[Served]:
    bedrock = Bedrock(
        region="us-east-1",
        endpoint=there.bedrock.base_url,
        access_key=Secret.from_env("AWS_ACCESS_KEY_ID"),
        secret_key=Secret.from_env("AWS_SECRET_ACCESS_KEY"),
        session_token=Secret.from_env("AWS_SESSION_TOKEN"),
    )
    vertex = Vertex(project="bud-stand-in", base_url=there.vertex.base_url)
    routes = [Route(f"claude-at-{name}", to=[Target(name, "claude-haiku-4-5")]) for name in SERVICES]
    with serving(MessagesApp(auth=Anonymous(), providers=[bedrock, vertex], routes=routes)) as url:
        yield Served(url, there)


SAID = "Words of 123456789012."
ERRORS = [
    (service, name, *row[1:])
    for service, first in zip(SERVICES, ("AWS error", "Google error"), strict=True)
    for row in rows(PAGES[service], first)
    for name in in_ticks(row[0])
]


@pytest.mark.parametrize(("service", "name", "given", "words"), ERRORS)
def test_each_error_has_the_documented_form(
    service: Service, name: str, given: str, words: str, served: Served
) -> None:
    served.upstreams[service].always(aws_error(name, SAID) if service == "bedrock" else google_error(name, SAID))
    try:
        reply = served.post(service)
    finally:
        served.upstreams[service].always(None)
    (kind,) = in_ticks(given)
    said = "Words of [" if words == "yes" else in_ticks(words)[0].replace("claude-haiku-4-5", f"claude-at-{service}")
    assert (reply.status_code, reply.json()["error"]["type"]) == (int(given[:3]), kind)
    assert reply.json()["error"]["message"].startswith(said)
    assert "123456789012" not in reply.text
    assert "retry-after" not in reply.headers


def test_bedrocks_page_about_models_and_streams(served: Served) -> None:
    upstream = served.upstreams["bedrock"]
    upstream.enqueue(model_error(400, "The model says no."), model_error(503, "The model is ill."))
    assert [served.post("bedrock").status_code for _ in range(2)] == [400, 500]
    upstream.enqueue(aws_error("ValidationException", "Input is too long for requested model."))
    assert served.post("bedrock").json()["error"]["message"].startswith("prompt is too long")
    upstream.enqueue(exception_first(), exception_mid_stream("throttlingException"))
    assert served.post("bedrock", stream=True).status_code == 429
    broken = served.post("bedrock", stream=True)
    assert (broken.status_code, b"event: error" in broken.content) == (200, True)
    assert b'"rate_limit_error"' in broken.content


def test_what_the_pages_say_of_answers(served: Served) -> None:
    for service, upstream in served.upstreams.items():
        reply = served.post(service, stream=True)
        assert reply.headers["upstream-request-id"] == upstream.requests[-1].request_id
        assert b"event: ping" in reply.content
        assert b"amazon" not in reply.content
        assert served.post(service, "/count_tokens").json().keys() == {"input_tokens"}


def _user(block: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [block]}


LACKED: dict[str, dict[str, Any]] = {
    "code execution": {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
    "web fetch": {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
    "MCP servers": {"mcp_servers": [{"type": "url", "url": "https://example.com", "name": "x"}]},
    "containers": {"container": "container_01"},
    "files": {"messages": [_user({"type": "document", "source": {"type": "file", "file_id": "file_01"}})]},
    "images by URL": {"messages": [_user({"type": "image", "source": {"type": "url", "url": "https://example.com"}})]},
    "documents": {"messages": [_user({"type": "document", "source": {"type": "url", "url": "https://example.com"}})]},
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("lacked", LACKED.values(), ids=LACKED.keys())
def test_what_is_not_there_is_refused(service: Service, lacked: dict[str, Any], served: Served) -> None:
    reply = served.post(service, **lacked)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


def test_web_search_is_on_vertex_ai_only(served: Served) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    assert [served.post(service, tools=tools).status_code for service in SERVICES] == [400, 200]


@pytest.mark.parametrize("service", SERVICES)
def test_the_pages_are_in_the_index_and_their_links_lead_somewhere(service: Service) -> None:
    assert f"({service}.md)" in (DOCS / "README.md").read_text()
    for page, anchor in re.findall(r"\]\(([\w.-]+\.md)(?:#([\w-]+))?\)", PAGES[service]):
        headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors
