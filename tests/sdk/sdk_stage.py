"""What the suite plays against: a stand-in that takes its cues from the requests, and a gateway in a host before it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route as HostRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from support.calls import KEY, UPSTREAM_KEY
from support.gateway import provider as anthropic_provider
from support.gateway import tasks_in_flight

import bud_asgi.testing
from bud_asgi import Anonymous, Anthropic, ApiKey, ApiKeys, Limit, MessagesApp, Route, hash_api_key
from bud_asgi.http import Engine, Timeouts
from bud_asgi.providers import Provider
from bud_asgi.providers.bedrock import Bedrock
from bud_asgi.providers.vertex import Vertex
from bud_asgi.testing import Received, Reply, StandIn, ThreadedStandIn
from bud_asgi.testing.anthropic.default_replies import default_reply
from bud_asgi.testing.bedrock import Bedrock as StandInBedrock
from bud_asgi.testing.google import Google
from bud_asgi.testing.server.serving import serving
from bud_asgi.testing.vertex import Vertex as StandInVertex

NARROW_KEY = "sk-bud-for-one-model"
MAX_BODY = 2 << 20


class Prompter:
    """Answers each request as the last cue in its messages says; see `suite/cues.py`."""

    def __init__(self, default: Callable[[Received], Reply]) -> None:
        self._default = default
        self.seen: defaultdict[str, list[Received]] = defaultdict(list)

    def __call__(self, received: Received) -> Reply:
        cue = _cue_in(received)
        if cue is None:
            return self._default(received)
        asked = self.seen[cue["cue"]]
        asked.append(received)
        replies: list[Any] = cue["replies"]
        return _made(replies[len(asked) - 1]) if len(asked) <= len(replies) else self._default(received)


def _cue_in(received: Received) -> dict[str, Any] | None:
    try:
        texts = list(_texts(_fields_of(received)["messages"]))
    except (ValueError, TypeError, KeyError):
        return None
    cues = [json.loads(text) for text in texts if text.startswith('{"cue":')]
    return cues[-1] if cues else None


def _fields_of(received: Received) -> dict[str, Any]:
    """The body; of a count on Bedrock the one inside, without `max_tokens`, which that must have."""
    fields = received.json()
    if "input" not in fields:
        return fields
    inside = json.loads(b64decode(fields["input"]["invokeModel"]["body"]))
    return {name: value for name, value in inside.items() if name != "max_tokens"}


def _texts(value: object) -> Generator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _texts(one)
    elif isinstance(value, dict):
        for one in cast("dict[str, object]", value).values():
            yield from _texts(one)


def _made(value: object) -> Any:
    """A value of a cue: `{"call": name, "args": [...], "more": {...}}` is a call of what `bud_asgi.testing` shows."""
    if not isinstance(value, dict) or "call" not in value:
        return value
    call = cast("dict[str, Any]", value)
    if call["call"] not in bud_asgi.testing.__all__:
        raise ValueError(f"{call['call']} is nothing that bud_asgi.testing shows")
    args = [_made(one) for one in call["args"]]
    return getattr(bud_asgi.testing, call["call"])(*args, **{name: _made(one) for name, one in call["more"].items()})


class Recorder:
    """Outermost in the host: keeps the heads of the requests that name their case."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = _headers(scope["headers"])
            head = {"path": scope["path"], "query": scope["query_string"].decode(), "headers": headers}
            self.seen[headers.get("x-suite-case", "")].append(head)
        await self._app(scope, receive, send)


def _headers(lines: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in lines}


class Stage:
    """A gateway that is served, and sight of what came to it, what went up, and what is still open."""

    def __init__(self, backend: str, upstream: ThreadedStandIn, prompter: Prompter) -> None:
        self.backend, self.upstream, self.prompter = backend, upstream, prompter
        self.host_url = ""
        self.engines: list[Engine] = []
        self.host = Starlette(
            routes=[HostRoute("/control/seen/{case}", self._seen), HostRoute("/control/tasks", self._tasks)]
        )
        self.recorder = Recorder(self.host)

    @property
    def environment(self) -> dict[str, str]:
        """What the suite must know."""
        return {
            "SUITE_URL": f"{self.host_url}/llm",
            "SUITE_CONTROL": f"{self.host_url}/control",
            "SUITE_KEY": KEY,
            "SUITE_NARROW_KEY": NARROW_KEY,
            "SUITE_BACKEND": self.backend,
            "SUITE_PASSING_URL": f"{self.host_url}/passing",
            "SUITE_LIMITED_URL": f"{self.host_url}/limited",
            "SUITE_UPSTREAM_KEY": UPSTREAM_KEY,
        }

    def engine(self) -> Engine:
        self.engines.append(Engine())
        return self.engines[-1]

    def still_open(self) -> list[str]:
        """Connections in use, and tasks that a server at rest doesn't have."""
        busy = [f"{engine.open - engine.idle} connections" for engine in self.engines if engine.open != engine.idle]
        return busy + sorted(httpx.get(f"{self.host_url}/control/tasks").json())

    async def _seen(self, request: Request) -> JSONResponse:
        case = request.path_params["case"]
        upstream = [
            {
                "target": one.target.decode(),
                "headers": _headers(one.headers),
                "body": _fields_of(one),
                "id": one.request_id,
                "aborted": one.aborted is not None,
            }
            for one in self.prompter.seen.get(case, [])
        ]
        return JSONResponse({"client": self.recorder.seen.get(case, []), "upstream": upstream})

    async def _tasks(self, _request: Request) -> JSONResponse:
        return JSONResponse(tasks_in_flight())


Backend = Callable[[], AbstractContextManager[tuple[Provider, ThreadedStandIn, Prompter]]]


@contextmanager
def _anthropic() -> Generator[tuple[Provider, ThreadedStandIn, Prompter]]:
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        prompter = Prompter(default_reply)
        upstream.always(prompter)
        yield (
            anthropic_provider(upstream.base_url, timeouts=Timeouts(2, 5, 5)),
            upstream,
            prompter,
        )


@contextmanager
def _vertex() -> Generator[tuple[Provider, ThreadedStandIn, Prompter]]:
    google = Google()
    with (
        StandIn.of(google).in_thread() as tokens,
        StandIn.of(service := StandInVertex(tokens=google.tokens)).in_thread() as upstream,
    ):
        prompter = Prompter(service.answer)
        upstream.always(prompter)
        yield (
            Vertex(
                project=google.project,
                base_url=upstream.base_url,
                service_account_info=google.account.info(tokens.base_url),
                timeouts=Timeouts(2, 5, 5),
            ),
            upstream,
            prompter,
        )


@contextmanager
def _bedrock() -> Generator[tuple[Provider, ThreadedStandIn, Prompter]]:
    service = StandInBedrock()
    key = service.keys.issue_temporary()
    with StandIn.of(service).in_thread() as upstream:
        prompter = Prompter(service.answer)
        upstream.always(prompter)
        yield (
            Bedrock(
                region=service.region,
                endpoint=upstream.base_url,
                access_key=key.access_key,
                secret_key=key.secret_key,
                session_token=key.session_token,
                timeouts=Timeouts(2, 5, 5),
            ),
            upstream,
            prompter,
        )


BACKENDS: Mapping[str, Backend] = {"anthropic": _anthropic, "vertex": _vertex, "bedrock": _bedrock}


@contextmanager
def stage(backend: str) -> Generator[Stage]:
    """A Starlette host with the gateway at `/llm`, served by uvicorn, before the stand-in of this backend.

    With Anthropic's, one that passes the client's own credential through is at `/passing`, and those with a limit at
    `/limited/short` and `/limited/long`.
    """
    with BACKENDS[backend]() as (provider, upstream, prompter):
        here = Stage(backend, upstream, prompter)
        messages = MessagesApp(
            auth=ApiKeys(
                [
                    ApiKey(name="suite", hash=hash_api_key(KEY)),
                    ApiKey(name="narrow", hash=hash_api_key(NARROW_KEY), models=("claude-haiku-*",)),
                ]
            ),
            providers=[provider],
            routes=[Route("claude-*", to=[provider.name])],
            max_body=MAX_BODY,
            client=here.engine,
        )
        messages.install(here.host, "/llm")
        if backend == "anthropic":
            own = Anthropic(auth="client", base_url=upstream.base_url)
            MessagesApp(auth=Anonymous(), providers=[own], client=here.engine).install(here.host, "/passing")
            for name, window in (("short", 2.0), ("long", 3600.0)):
                limits = [Limit("requests", 1, window)]
                limited = MessagesApp(auth=Anonymous(), providers=[provider], limits=limits, client=here.engine)
                limited.install(here.host, f"/limited/{name}")
        with serving(here.recorder) as url:
            here.host_url = url
            yield here
