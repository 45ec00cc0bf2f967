"""A Starlette service with the Messages API mounted next to its own route.

Run it in the repository's root, with an API key of your choice for the client:

    ANTHROPIC_API_KEY=sk-ant-... EXAMPLE_API_KEY=... uvicorn examples.starlette_host:app

Clients use the base URL http://127.0.0.1:8000/llm.
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bud_asgi import Anthropic, ApiKeys, Limit, MessagesApp, Secret, hash_api_key


async def home(_request: Request) -> PlainTextResponse:
    """A page of the service itself."""
    return PlainTextResponse("the host's own page")


app = Starlette(routes=[Route("/", home)])
messages = MessagesApp(
    # In production, store only the hash: ApiKeys({"ci": "sha256:..."}).
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
