"""A FastAPI service with a login of its own: the endpoint takes the user that the service has found.

ANTHROPIC_API_KEY=... uvicorn examples.fastapi_host:app
"""

import os

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Scope

from bud_asgi import Anthropic, HostUser, MessagesApp, Principal, Secret

SESSIONS = {"session-of-ada": "ada", "session-of-bob": "bob"}
"""Stands for the service's own session store."""

app = FastAPI()


@app.get("/")
async def home() -> dict[str, str]:
    """The host's own route."""
    return {"hello": "from the host"}


def user_of(scope: Scope) -> Principal | None:
    """Who is asking, by the service's own session: from a bearer token here, a cookie would do as well."""
    token = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
    name = SESSIONS.get(token)
    return Principal(id=name, models=("claude-haiku-*",)) if name else None


messages = MessagesApp(
    auth=HostUser(user_of),
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        )
    ],
)
messages.install(app, "/llm")
