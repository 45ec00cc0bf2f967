"""Limits in front of an app of your own: a Starlette service that counts words, with a cost function.

Run it in the repository's root, with an API key of your choice:

    EXAMPLE_API_KEY=... uvicorn examples.limited_app:app

Send texts to it, and read the `anthropic-ratelimit-tokens-remaining` header of the replies:

    curl -i http://127.0.0.1:8000/count -H "x-api-key: $EXAMPLE_API_KEY" -d "some words"
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bud_asgi import (
    ApiKeys,
    AuthMiddleware,
    Exchange,
    Limit,
    Middleware,
    RateLimitMiddleware,
    Usage,
    hash_api_key,
)
from bud_asgi.limits import Amounts

BYTES_PER_WORD = 6


async def count(request: Request) -> JSONResponse:
    """Count the words of a text, and record them as the usage of the request."""
    words = len((await request.body()).split())
    Exchange.of(request.scope).usage = Usage(input_tokens=words)
    return JSONResponse({"words": words})


def cost(exchange: Exchange) -> Amounts:
    """The words that a text of the declared length probably has. Its body has not been read yet."""
    length = exchange.headers.get(b"content-length", b"")
    return {"tokens": int(length) // BYTES_PER_WORD if length.isdigit() else 0}


def used(exchange: Exchange) -> Amounts:
    """The words that were counted; none if the app has not answered."""
    return {"tokens": (exchange.usage and exchange.usage.input_tokens) or 0}


app = Starlette(
    routes=[Route("/count", count, methods=["POST"])],
    middleware=[
        Middleware(AuthMiddleware, backend=ApiKeys({"me": hash_api_key(os.environ["EXAMPLE_API_KEY"])})),
        Middleware(
            RateLimitMiddleware,
            limits=[Limit("tokens", 1000), Limit("concurrent", 4)],  # a word is a token here
            cost=cost,
            used=used,
        ),
    ],
)
