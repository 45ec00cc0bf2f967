"""The whole gateway with Bedrock behind it: `uvicorn whole_bedrock:app`, `UPSTREAM` stands in; callers hold `KEY`."""

from __future__ import annotations

import os

from starlette.applications import Starlette

from bud_asgi import ApiKey, ApiKeys, Bedrock, Limit, MessagesApp, Route, hash_api_key

NEVER_REACHED = 1_000_000_000

messages = MessagesApp(
    auth=ApiKeys([ApiKey(name="bench", hash=hash_api_key(os.environ["KEY"]), models=("claude-*",))]),
    routes=[Route("claude-haiku-4-5", to=["bedrock"]), Route("claude-*", to=["bedrock"])],
    limits=[Limit("requests", NEVER_REACHED), Limit("requests", NEVER_REACHED, per="all")],
    providers=[
        Bedrock(
            region="us-east-1",
            endpoint=os.environ["UPSTREAM"],
            access_key="AKIABENCHBENCHBENCH0",
            secret_key="not-a-secret-of-anybody",
        )
    ],
)
app = Starlette()
messages.install(app, "/anthropic")
