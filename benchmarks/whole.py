"""The whole gateway, mounted in a Starlette app: `uvicorn whole:app`, leads to `UPSTREAM`; callers hold `KEY`."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as Page

from bud_asgi import Anthropic, ApiKey, ApiKeys, Limit, MessagesApp, Route, hash_api_key

NEVER_REACHED = 1_000_000_000


async def home(request: Request) -> PlainTextResponse:
    """A page of the host's own."""
    return PlainTextResponse(request.url.path)


messages = MessagesApp(
    auth=ApiKeys([ApiKey(name="bench", hash=hash_api_key(os.environ["KEY"]), models=("claude-*",))]),
    routes=[Route("claude-haiku-4-5", to=["upstream"]), Route("claude-*", to=["upstream"])],
    limits=[Limit("requests", NEVER_REACHED), Limit("requests", NEVER_REACHED, per="all")],
    providers=[Anthropic(name="upstream", api_key="sk-ant-upstream", base_url=os.environ["UPSTREAM"])],
)
app = Starlette(routes=[Page("/", home)])
messages.install(app, "/anthropic")
