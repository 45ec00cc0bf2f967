"""A FastAPI service with its own login, which the mounted Messages API uses too.

Run it in the repository's root:

    ANTHROPIC_API_KEY=sk-ant-... uvicorn examples.fastapi_host:app

Clients use the base URL http://127.0.0.1:8000/llm and a session token as the bearer token, such as `session-of-ada`.
"""

import os

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Scope

from bud_asgi import Anthropic, HostUser, MessagesApp, Principal, Secret

SESSIONS = {"session-of-ada": "ada", "session-of-bob": "bob"}
"""Replace it with your own session store."""

app = FastAPI()


@app.get("/")
async def home() -> dict[str, str]:
    """A route of the service itself."""
    return {"hello": "from the host"}


def user_of(scope: Scope) -> Principal | None:
    """Return the user of a request, from a bearer token. A session cookie would work as well."""
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
