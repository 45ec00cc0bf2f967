"""A FastAPI service with its own tests: `pytest` in this folder runs them, without a key and without a network.

Run it in this folder:

    ANTHROPIC_API_KEY=sk-ant-... BEDROCK_API_KEY=... uvicorn main:app

Clients use the base URL http://127.0.0.1:8000/llm and a session token as the bearer token, such as `session-of-ada`.
"""

from typing import Annotated

from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from bud_asgi import Anthropic, Bedrock, HostUser, Limit, MessagesApp, Principal, Route, Secret

SESSIONS = {"session-of-ada": "ada", "session-of-bob": "bob"}
"""Replace it with your own database."""

app = FastAPI()


async def current_user(token: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> Principal:
    """Return the user of a request, who may use the cheaper models only."""
    user = SESSIONS.get(token.credentials)
    if user is None:
        raise HTTPException(401, "Your session has expired")
    return Principal(id=user, models=("claude-haiku-*",))


messages = MessagesApp(
    auth=HostUser(),
    providers=[
        Anthropic(api_key=Secret.from_env("ANTHROPIC_API_KEY")),
        Bedrock(region="eu-central-1", bearer_token=Secret.from_env("BEDROCK_API_KEY")),
    ],
    routes=[Route("claude-*", to=["anthropic", "bedrock"])],
    limits=[Limit("requests", 2, per="principal")],
)
app.include_router(messages.router(principal=current_user), prefix="/llm")

claude = AsyncAnthropic(
    base_url="http://gateway",
    api_key="unused",
    http_client=DefaultAsyncHttpxClient(transport=messages.transport("summaries")),
)


@app.get("/summary")
async def summary(text: str) -> dict[str, str]:
    """Summarise a text: the service calls Claude through its own gateway."""
    question = f"Summarise: {text}"
    message = await claude.messages.create(
        model="claude-haiku-4-5", max_tokens=200, messages=[{"role": "user", "content": question}]
    )
    return {"summary": "".join(block.text for block in message.content if block.type == "text")}
