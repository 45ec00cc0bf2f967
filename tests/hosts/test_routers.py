"""`install` in what services have besides an app: an `APIRouter`, Starlette's `Router`, an app mounted in another."""

from __future__ import annotations

import re
from typing import Any

import litestar
import pytest
import quart
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.routing import Mount, Router
from starlette.testclient import TestClient
from support.calls import BODY

from bud_asgi import Anonymous, Anthropic, MessagesApp
from bud_asgi.options import OptionError

VERSION = {"anthropic-version": "2023-06-01"}


def app() -> MessagesApp:
    return MessagesApp(auth=Anonymous(), providers=[Anthropic(base_url="http://127.0.0.1:1")])


def refuse() -> None:
    raise HTTPException(402, "Your credit is used up")


def served(host: Any, path: str) -> int:
    with TestClient(host) as client:
        assert client.get(f"{path}/readyz").status_code == 200
        return client.post(f"{path}/v1/messages", json=BODY, headers=VERSION).status_code


def test_an_api_router_serves_the_app_behind_its_own_dependencies() -> None:
    messages, paid, free = app(), APIRouter(prefix="/paid", dependencies=[Depends(refuse)]), APIRouter(prefix="/free")
    messages.install(paid, "/llm")
    messages.install(free, "/llm")
    host = FastAPI()
    host.include_router(paid, prefix="/api")
    host.include_router(free, prefix="/api")
    assert served(host, "/api/paid/llm") == 402
    assert served(host, "/api/free/llm") == 502
    assert messages._loops._by_loop == {}, "closed with the host's lifespan"


def test_a_router_of_starlette_serves_the_app() -> None:
    messages, router = app(), Router()
    messages.install(router, "/llm")
    assert served(Starlette(routes=[Mount("/api", router)]), "/api/llm") == 502
    assert served(router, "/llm") == 502


def test_an_app_mounted_in_another_serves_the_app() -> None:
    messages, inner = app(), FastAPI()
    messages.install(inner, "/llm")
    outer = FastAPI()
    outer.mount("/api", inner)
    assert served(outer, "/api/llm") == 502
    outer = FastAPI(lifespan=messages.lifespan)
    outer.mount("/api", inner)
    assert served(outer, "/api/llm") == 502
    assert messages._loops._by_loop == {}, "closed with the lifespan of the outer app"


def test_an_earlier_route_of_an_api_router_is_named() -> None:
    router = APIRouter(prefix="/api")
    router.add_api_route("/{path:path}", refuse, methods=["GET", "POST"])
    with pytest.raises(OptionError, match=re.escape("the host's APIRoute '/api/{path:path}' comes earlier")):
        app().install(router, "/llm")


@pytest.mark.parametrize("host", [litestar.Litestar(), quart.Quart("quart"), FastAPI, None])
def test_anything_else_is_refused_with_what_to_do(host: Any) -> None:
    with pytest.raises(OptionError, match=r"^host: .*in other frameworks, mount the app as an ASGI app \(docs/hosts\)"):
        app().install(host, "/llm")


def test_the_layer_for_final_events_needs_the_app_itself() -> None:
    with pytest.raises(OptionError, match=r"^final_error_event: a router has no middleware; install in the app itself"):
        app().install(APIRouter(), "/llm", final_error_event=True)
