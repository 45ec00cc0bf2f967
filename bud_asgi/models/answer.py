"""The last stage of the Models API: the list of models, or one of them, for the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from starlette.types import Scope

from bud_asgi.catalogue import known_model
from bud_asgi.exchange import Exchange, Offer, Principal
from bud_asgi.models.offered import find, offered
from bud_asgi.models.upstream_lists import ModelsByProvider
from bud_asgi.protocol.errors import NotFound
from bud_asgi.protocol.models_api import ListQuery, Model, page, read_query
from bud_asgi.providers import Provider
from bud_asgi.response import Response


async def answer_models(
    exchange: Exchange,
    principal: Principal,
    offers: Sequence[Offer],
    providers: Mapping[str, Provider],
    lists: Callable[[], Awaitable[ModelsByProvider]],
    scope: Scope,
    response: Response,
) -> None:
    """Answer `GET /v1/models` or `GET /v1/models/{id}`. `lists` returns the models that upstreams list.

    Raises `InvalidRequest` and `NotFound`.
    """
    query = _query(exchange, scope.get("query_string", b""))
    models = await offered(offers, await lists(), providers, principal)
    body = models_body(models, query, exchange.model_id if exchange.operation == "models.retrieve" else None)
    await response.send_whole(200, [(b"content-type", b"application/json")], body)


def models_body(models: Sequence[Model], query: ListQuery, model_id: str | None = None) -> bytes:
    """Encode a page of the list, or the one model of an id or alias. Pure.

    Raises `InvalidRequest` for a cursor that is not in the list, `NotFound` for an id that is not.
    """
    if model_id is not None:
        model = find(models, model_id)
        if model is None:
            raise NotFound(f"model: {model_id}")
        return msgspec.json.encode(model.render(beta=query.beta))
    if query.after_id and known_model(query.after_id) and find(models, query.after_id) is None:
        # The previous page came from the catalogue, and the upstream's own list has replaced that since: start again.
        query = msgspec.structs.replace(query, after_id=None)
    return page(models, query)


def _query(exchange: Exchange, query_string: bytes) -> ListQuery:
    """The query of a list; for one model only whether the beta form is requested. Raises `InvalidRequest`."""
    beta = b"beta=true" in query_string.split(b"&") or b"anthropic-beta" in exchange.headers
    query = read_query(query_string) if exchange.operation == "models.list" else ListQuery()
    return msgspec.structs.replace(query, beta=beta)
