"""A Starlette service that takes the endpoint in, beside a route of its own.

ANTHROPIC_API_KEY=... uvicorn examples.starlette_host:app
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bud_asgi import Anthropic, ApiKeys, Limit, MessagesApp, Secret, hash_api_key


async def home(_request: Request) -> PlainTextResponse:
    """The host's own page."""
    return PlainTextResponse("the host's own page")


app = Starlette(routes=[Route("/", home)])
messages = MessagesApp(
    # In earnest, keep the hash alone in your configuration: ApiKeys({"ci": "sha256:..."}).
    auth=ApiKeys({"ci": hash_api_key(os.environ["EXAMPLE_API_KEY"])}),
    providers=[
        Anthropic(
            api_key=Secret.from_env("ANTHROPIC_API_KEY"),
            base_url=os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        )
    ],
    limits=[Limit("requests", 60)],
)
messages.install(app, "/llm")
