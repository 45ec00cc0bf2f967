"""The last stage of the Models API: the list, or one of it, for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.types import Scope

from bud_asgi.catalogue import known_model
from bud_asgi.exchange import Exchange, Offer, Principal
from bud_asgi.models.upstream_lists import Listings, find, offered
from bud_asgi.protocol.errors import NotFound
from bud_asgi.protocol.models_api import page, read_query
from bud_asgi.providers import Provider
from bud_asgi.response import Response


async def answer_models(
    exchange: Exchange,
    principal: Principal,
    offers: Sequence[Offer],
    providers: Mapping[str, Provider],
    listings: Listings,
    scope: Scope,
    response: Response,
) -> None:
    """Answer `GET /v1/models` or `GET /v1/models/{id}`, from what is known now. Raises `InvalidRequest`, `NotFound`."""
    asked = scope.get("query_string", b"")
    beta = b"beta=true" in asked.split(b"&") or b"anthropic-beta" in exchange.headers
    query = read_query(asked if exchange.operation == "models.list" else b"")
    models = offered(offers, await listings.told(), providers, principal)
    if exchange.operation == "models.list":
        if query.after_id and known_model(query.after_id) and find(models, query.after_id) is None:
            # Of the catalogue, which the upstream's own list has replaced since the page before: begin again.
            query = msgspec.structs.replace(query, after_id=None)
        body = page(models, msgspec.structs.replace(query, beta=beta))
    else:
        model = find(models, exchange.model_id)
        if model is None:
            raise NotFound(f"model: {exchange.model_id}")
        body = msgspec.json.encode(model.render(beta=beta))
    await response.send_whole(200, [(b"content-type", b"application/json")], body)
