"""The status page over a real server: who sees it, what it shows, and that it shows nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.requests import HTTPConnection
from status.test_markup import Parsed
from support.busy import HOSTILE, OPERATOR, Busy, busy, fail, streams
from support.waiting import until

from bud_asgi import Anonymous, Anthropic, ApiKeys, HostUser, Limit, MemoryStore, MessagesApp, Principal, hash_api_key
from bud_asgi.options import OptionError
from bud_asgi.routing import Route

CANARY = "CANARY-of-the-content"


@pytest.fixture(scope="module")
def here() -> Generator[Busy]:
    with busy() as here:
        for number in range(6):
            here.post(("ci", "web")[number % 2], team=("platform", "product")[number % 2])
        here.post(HOSTILE, HOSTILE, team=HOSTILE)
        here.post("ci", messages=[{"role": "user", "content": CANARY}], system=CANARY)
        fail(here)
        with streams(here, 3, ["ci", HOSTILE]):
            yield here


def messages(**options: Any) -> MessagesApp:
    settings: dict[str, Any] = {"providers": [Anthropic(api_key="sk-ant-x")], "auth": Anonymous(), **options}
    return MessagesApp(**settings)


async def get(app: Any, path: str = "/", **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        return await client.request(more.pop("method", "GET"), path, **more)


class Basic(AuthenticationBackend):
    """A backend of the host's that reads Basic authentication itself."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        if "authorization" not in conn.headers:
            return None
        if conn.headers["authorization"] != "Basic bWU6cGFzcw==":  # me:pass
            raise AuthenticationError("wrong user or password")
        return AuthCredentials(["authenticated"]), SimpleUser("me")


KEYS = ApiKeys({"operator": hash_api_key(OPERATOR)})
LOGINS: dict[str, tuple[Any, dict[str, Any], int, bool]] = {
    "no key": (KEYS, {}, 401, True),
    "a key as a browser sends it": (KEYS, {"auth": ("", OPERATOR)}, 200, False),
    "with any user name": (KEYS, {"auth": ("me", OPERATOR)}, 200, False),
    "a key as a header": (KEYS, {"headers": {"x-api-key": OPERATOR}}, 200, False),
    "a key as a bearer token": (KEYS, {"headers": {"authorization": f"Bearer {OPERATOR}"}}, 200, False),
    "a wrong key": (KEYS, {"auth": ("", "sk-bud-wrong")}, 401, True),
    "the key as a user name": (KEYS, {"auth": (OPERATOR, "")}, 401, True),
    "no base64": (KEYS, {"headers": {"authorization": "Basic !"}}, 401, True),
    "a backend with a password": (Basic(), {"auth": ("me", "pass")}, 200, False),
    "its wrong password": (Basic(), {"auth": ("me", "wrong")}, 401, True),
    "its password beside keys": ([KEYS, Basic()], {"auth": ("me", "pass")}, 200, False),
    "a key beside a password": ([KEYS, Basic()], {"auth": ("", OPERATOR)}, 200, False),
    "a host's login": (HostUser(lambda scope: "admin"), {}, 200, False),
    "without a host's login": (HostUser(lambda scope: None), {}, 403, False),
    "everyone": (Anonymous(), {}, 200, False),
}


@pytest.mark.parametrize(("auth", "login", "status", "challenged"), LOGINS.values(), ids=LOGINS.keys())
@pytest.mark.parametrize("path", ["/", "/status.json"])
async def test_who_sees_the_page(auth: Any, login: dict[str, Any], status: int, challenged: bool, path: str) -> None:
    response = await get(messages().status_page(auth=auth), path, **login)
    assert response.status_code == status
    assert ("www-authenticate" in response.headers) is challenged
    assert response.headers["cache-control"] == "no-store"
    if status != 200:
        assert len(response.content) < 100
        assert b"uptime" not in response.content


async def test_a_user_of_the_host_is_not_enough() -> None:
    """A middleware of ours in front has admitted a caller: the page still has an `auth` of its own."""
    page = messages().status_page(auth=KEYS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        from bud_asgi import Exchange

        Exchange.of(scope).principal = scope["user"] = Principal(id="caller")
        await page(scope, receive, send)

    assert (await get(app)).status_code == 401


async def test_guessing_keys_is_limited() -> None:
    page = messages().status_page(auth=KEYS)
    answers = [await get(page, auth=("", f"sk-bud-{number}")) for number in range(120)]
    assert answers[0].status_code == 401
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert (await get(page, auth=("", OPERATOR))).status_code in {200, 429}


@pytest.mark.parametrize("auth", [None, [], object()])
def test_it_is_not_made_without_auth(auth: Any) -> None:
    with pytest.raises(OptionError, match="auth"):
        messages().status_page(auth=auth)


METHODS = {
    ("GET", "/"): 200,
    ("HEAD", "/"): 200,
    ("HEAD", "/status.json"): 200,
    ("POST", "/"): 405,
    ("DELETE", "/status.json"): 405,
    ("OPTIONS", "/"): 405,
    ("GET", "/other"): 404,
    ("GET", "/status.json/"): 404,
}


@pytest.mark.parametrize(("line", "status"), METHODS.items(), ids=map(" ".join, METHODS))
async def test_paths_and_methods(line: tuple[str, str], status: int) -> None:
    response = await get(messages().status_page(auth=Anonymous()), line[1], method=line[0])
    assert response.status_code == status
    assert response.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert (len(response.content) == 0) is (line[0] == "HEAD")
    assert int(response.headers["content-length"]) > 0
    for name in ("x-frame-options", "x-content-type-options", "content-security-policy", "referrer-policy"):
        assert name in response.headers


def test_the_document_needs_nothing_from_outside_and_no_script(here: Busy) -> None:
    response = here.page("/status/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    parsed = Parsed(response.text)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == tags.count("style") == 1
    links = [value for _, attributes in parsed.tags for name, value in attributes.items() if name in {"src", "href"}]
    assert sorted(filter(None, links)) == ["data:,", "status.json"]
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name == "style" or name.startswith("on")
    ]
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in parsed.tags
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_names_that_callers_choose_are_text(here: Busy) -> None:
    document = here.page("/status/").text
    assert "<img" not in document
    assert document.count("<script") == 1
    assert "\u202e" not in document
    words = "".join(Parsed(document).words)
    assert words.count("<img src=x onerror=\"document.title='XSS'\">\\u202e'&`") >= 4  # caller, team, model, refusal


def test_it_shows_each_part(here: Busy) -> None:
    words = " ".join(Parsed(here.page("/status/").text).words)
    for shown in (
        "ready",
        "claude-*",
        "backup/claude-haiku-4-5",
        "rate limited or overloaded",
        "no connection, no reply in time",
        "600 requests per minute",
        "500 concurrent requests",
        "product",
        "not_found_error",
        "invalid_request_error",
        "127.0.0.1:",
        "usable",
    ):
        assert shown in words, shown


def test_it_shows_no_content_and_no_credential(here: Busy) -> None:
    for path in ("/status/", "/status/status.json"):
        document = here.page(path).text
        assert CANARY not in document
        assert "sk-ant-" not in document
        assert OPERATOR not in document
        assert "Hello" not in document


def test_the_data_is_the_same(here: Busy) -> None:
    report = here.page("/status/status.json").json()
    assert report["app"]["ready"] is True
    assert report["app"]["streams"] == len(report["streams"]) == 3
    assert {row["model"] for row in report["streams"]} == {"claude-haiku-4-5"}
    assert {row["route"] for row in report["streams"]} == {"claude-*"}
    assert all(row["pieces"] >= 1 and row["age"] > 0.0 for row in report["streams"])
    assert [route["model"] for route in report["app"]["routes"]] == ["claude-*", "fast", "batch"]
    use = {row["principal"]: row["use"] for row in report["keys"]}
    assert use["web"]["requests"] == 3
    assert use["web"]["input_tokens"] > 0
    assert use["ci"]["failed"] == 2
    assert {(row["status"], row["error"]) for row in report["refusals"]} >= {
        (404, "not_found_error"),
        (400, "invalid_request_error"),
    }
    concurrent = next(row for row in report["limits"] if row["per"] == "all")
    assert (concurrent["amount"], concurrent["used"]) == (500, 3.0)
    mine = next(row for row in report["limits"] if (row["per"], row["name"]) == ("principal", "web"))
    assert mine["limit"] == "600 requests per minute"
    assert [row["provider"] for row in report["app"]["credentials"]] == ["anthropic", "backup", "spare"]
    busy_pool = next(pool for pool in report["app"]["pools"] if pool["busy"])
    assert re.fullmatch(r"127\.0\.0\.1:\d+", busy_pool["origin"])
    history = next(row for row in report["history"] if (row["provider"], row["model"]) == ("spare", "claude-haiku-4-5"))
    assert sum(history["failed"]) >= 1


HREFS = {"/status": "status/status.json", "/status/": "status.json"}


@pytest.mark.parametrize(("path", "href"), HREFS.items())
async def test_the_link_to_the_data_is_relative(path: str, href: str) -> None:
    page = messages().status_page(auth=Anonymous())

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await page({**scope, "root_path": "/status"}, receive, send)

    document = await get(mounted, path)
    assert f'href="{href}"' in document.text
    assert (await get(mounted, "/status/status.json")).json()["app"]["version"]


class Broken(MemoryStore):
    """A store of the host's that fails when it is read."""

    async def statuses(self, buckets: Any) -> Any:
        raise RuntimeError("a secret of the host's")


async def test_a_store_that_fails_leaves_the_rest_of_the_page() -> None:
    app = messages(limits=[Limit("requests", 5)], store=Broken())
    page = app.status_page(auth=Anonymous())
    app._status.activity._count(await _settled(), Principal(id="me"), failed=False)
    document = (await get(page)).text
    assert "The limits of callers are unavailable: RuntimeError." in document
    assert "a secret" not in document


async def _settled() -> Any:
    from status.test_activity import settled

    return settled("me")


class Slow(MemoryStore):
    """A store that answers only when its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.gate = 0, asyncio.Event()

    async def statuses(self, buckets: Any) -> Any:
        self.reads += 1
        await self.gate.wait()
        return await super().statuses(buckets)


async def test_pages_that_are_loaded_while_a_store_is_slow_do_not_read_it_again() -> None:
    store = Slow()
    app = messages(limits=[Limit("requests", 5)], store=store)
    page = app.status_page(auth=Anonymous())
    app._status.activity._count(await _settled(), Principal(id="me"), failed=False)
    store.gate.set()
    assert (await get(page)).status_code == 200
    before, page._made_at = store.reads, 0.0
    store.gate.clear()
    first = asyncio.create_task(get(page))
    await until(lambda: store.reads > before)
    assert [(await get(page)).status_code for _ in range(3)] == [200] * 3
    store.gate.set()
    assert (await first).status_code == 200
    assert store.reads == before + 1


async def test_many_targets_are_cut_and_a_page_is_small() -> None:
    routes = [Route(f"model-{number}", to=["anthropic"]) for number in range(400)]
    app = messages(routes=routes)
    document = await get(app.status_page(auth=Anonymous()))
    assert "The first 200 are shown." in document.text
    assert len(document.content) < 100_000


async def test_two_pages_of_one_app_count_once() -> None:
    app = messages()
    app.status_page(auth=Anonymous())
    app.status_page(auth=Anonymous())
    assert len(app._observers.settled) == 1
    assert len(messages()._observers.settled) == 0
