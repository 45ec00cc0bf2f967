"""A gateway for a team whose members bring their own Anthropic keys: it identifies the callers, and they pay.

Run it in the repository's root:

    TEAM_TOKENS=team-1=ada,team-2=bob uvicorn examples.pass_through:app

A client sends its token of the team as a bearer token, and its Anthropic key in `x-api-key`. With the official SDK:

    Anthropic(base_url=..., auth_token="team-1", default_headers={"x-api-key": "sk-ant-..."})
"""

import os

from bud_asgi import Anthropic, HostToken, Limit, MessagesApp

TOKENS = dict(pair.split("=", 1) for pair in os.environ["TEAM_TOKENS"].split(","))
"""Replace it with your own list of members."""

app = MessagesApp(
    auth=HostToken(TOKENS.get, prefix="team-"),
    providers=[Anthropic(auth="client", base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"))],
    limits=[Limit("requests", 60)],
)
