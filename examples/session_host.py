"""A Starlette service with a session cookie, which the mounted Messages API uses too.

Run it in the repository's root (Starlette's sessions need the package `itsdangerous`):

    ANTHROPIC_API_KEY=sk-ant-... SESSION_SECRET=... uvicorn examples.session_host:app

`POST /login` with `{"user": "ada"}` sets the cookie; then `POST /llm/v1/messages` is open to that browser. `/summary`
is a page of the service that calls the same endpoint itself, in process, for the user of the session.
"""

import os

from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Scope

from bud_asgi import Anthropic, HostUser, Limit, MessagesApp, Secret

BLOCKED = {"mallory"}
"""Replace it with your own user model."""


async def login(request: Request) -> JSONResponse:
    """Log in; a real service checks a password here."""
    request.session["user"] = (await request.json())["user"]
    return JSONResponse({"hello": request.session["user"]})


def user_of(scope: Scope) -> str | None:
    """Return the user of the session, for the Messages API."""
    user: str | None = scope["session"].get("user")
    if user in BLOCKED:
        raise HTTPException(403, "This account is blocked.")
    return user


async def summary(request: Request) -> JSONResponse:
    """Call the mounted endpoint as the user, whose limits apply."""
    user = user_of(request.scope)
    if user is None:
        raise HTTPException(401)
    http_client = DefaultAsyncHttpxClient(transport=messages.transport(user))
    async with AsyncAnthropic(base_url="http://gateway", api_key="unused", http_client=http_client) as client:
        message = await client.messages.create(
            model="claude-haiku-4-5", max_tokens=100, messages=[{"role": "user", "content": "Summarize my day."}]
        )
    return JSONResponse({"text": message.content[0].to_dict()["text"]})


app = Starlette(
    routes=[Route("/login", login, methods=["POST"]), Route("/summary", summary)],
    middleware=[Middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])],
)
messages = MessagesApp(
    auth=HostUser(user_of, credential_headers=()),
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        )
    ],
    limits=[Limit("requests", 3)],
)
messages.install(app, "/llm")
