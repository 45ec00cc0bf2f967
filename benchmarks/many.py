"""The gateway with 100,000 keys, without a host: `uvicorn many:app`, leads to `UPSTREAM`; keys are made from `KEY`."""

from __future__ import annotations

import os

from load import keys_of

from bud_asgi import Anthropic, ApiKey, ApiKeys, Limit, MessagesApp, Route, hash_api_key

NEVER_REACHED = 1_000_000
YEARS = 1e9  # seconds: no limit is full again within a run, so that the store has to keep every caller's

app = MessagesApp(
    auth=ApiKeys(
        [
            ApiKey(name=f"caller-{number}", hash=hash_api_key(key), models=("claude-*",))
            for number, key in enumerate(keys_of(os.environ["KEY"]))
        ]
    ),
    routes=[Route("claude-*", to=["upstream"])],
    limits=[Limit("requests", NEVER_REACHED, YEARS), Limit("requests", NEVER_REACHED, YEARS, per="all")],
    providers=[Anthropic(name="upstream", api_key="sk-ant-upstream", base_url=os.environ["UPSTREAM"])],
)
