"""A FastAPI service whose own dependency authenticates the callers of the Messages API.

Run it in the repository's root:

    ANTHROPIC_API_KEY=sk-ant-... uvicorn examples.fastapi_host:app

Clients use the base URL http://127.0.0.1:8000/llm and a session token as the bearer token (`auth_token` in the SDK, or
`ANTHROPIC_AUTH_TOKEN`), such as `session-of-ada`.
"""

import os
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from bud_asgi import Anthropic, HostUser, MessagesApp, Principal, Secret

SESSIONS = {"session-of-ada": "ada", "session-of-bob": "bob"}
CREDIT = {"ada": 10, "bob": 0}
"""Replace them with your own database."""

app = FastAPI()


async def database() -> AsyncGenerator[dict[str, int]]:
    """Open a connection for the time of a request, its stream included."""
    yield CREDIT


async def current_user(
    token: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
    credit: Annotated[dict[str, int], Depends(database)],
) -> str:
    """Return the user of a request, as in any FastAPI service."""
    user = SESSIONS.get(token.credentials)
    if user is None:
        raise HTTPException(401, "Your session has expired", {"WWW-Authenticate": "Bearer"})
    if not credit[user]:
        raise HTTPException(402, "Your credit is used up")
    return user


async def caller(user: Annotated[str, Depends(current_user)]) -> Principal:
    """Return the same user as the gateway needs it."""
    return Principal(id=user, models=("claude-haiku-*",))


@app.get("/")
async def home() -> dict[str, str]:
    """A route of the service itself."""
    return {"hello": "from the host"}


messages = MessagesApp(
    auth=HostUser(),
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        )
    ],
)
app.include_router(messages.router(principal=caller), prefix="/llm")
