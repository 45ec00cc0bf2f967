"""What models there are: what the router offers, with what the upstreams and the catalogue say of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Raw

from bud_asgi.catalogue import catalogue, known_model
from bud_asgi.exchange import Offer, Principal
from bud_asgi.http import HttpClient, HttpError, HttpRequest, read_body
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.models_api import MAX_LISTING, Model, read_listing
from bud_asgi.protocol.patterns import matches
from bud_asgi.providers import Provider

FRESH_FOR = 300.0
"""Seconds for which an upstream's list is not asked for again."""

AGAIN_AFTER = 30.0
"""The same after it could not be had."""

WAIT = 0.025
"""Seconds for which a caller waits for a list that was never had, where the catalogue can stand in for it."""

WAIT_WITHOUT = 1.0
"""The same, from when it was asked for, where nothing can: an empty list would be believed."""

WITHIN = 10.0
"""Seconds in which a list must be whole."""

Told = Mapping[str, Mapping[str, Model]]
"""What upstreams have told of their models: by provider's name, then by id."""

_log = logging.getLogger("bud_asgi")


class Listings:
    """The upstreams' own lists of models, for one event loop: asked for on first use and then in the background."""

    def __init__(self, providers: Iterable[Provider], client: HttpClient) -> None:
        self._client = client
        self._providers = tuple(providers)
        self._told: dict[str, Mapping[str, Model]] = {}
        self._asked_at: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def told(self) -> Told:
        """What is known by now. What is missing or old is asked for; only what was never had is waited for."""
        for provider in self._providers:
            self._ask_if_due(provider)
        soon = time.monotonic() + WAIT
        for provider in self._providers:
            task = self._asking.get(provider.name)
            if task is not None and provider.name not in self._told:
                until = soon if provider.models else self._asked_at[provider.name] + WAIT_WITHOUT
                await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
        return self._told

    def close(self) -> None:
        """Give up what is being asked for."""
        for task in self._asking.values():
            task.cancel()

    def _ask_if_due(self, provider: Provider) -> None:
        name, now = provider.name, time.monotonic()
        wait = FRESH_FOR if name in self._told else AGAIN_AFTER
        if name in self._asking or now - self._asked_at.get(name, -wait) < wait:
            return
        request = provider.models_request()
        if request is not None:
            self._asked_at[name] = now
            self._asking[name] = asyncio.get_running_loop().create_task(self._ask(provider, request))

    async def _ask(self, provider: Provider, request: HttpRequest) -> None:
        try:
            async with asyncio.timeout(WITHIN):
                models = await _fetch(self._client, provider, request)
            if models is not None:
                self._told[provider.name] = {model.id: model for model in models}
        except (HttpError, GatewayError, TimeoutError) as error:
            _log.info("%s: its list of models can't be had: %s", provider.name, str(error) or "it took too long")
        except Exception:  # noqa: BLE001 - the end of a task: nobody awaits it, so it reports
            _log.exception("%s: its list of models can't be had", provider.name)
        finally:
            self._asking.pop(provider.name, None)


async def _fetch(client: HttpClient, provider: Provider, request: HttpRequest) -> list[Model] | None:
    reply = await client.send(await provider.credential.apply(request, {}))
    try:
        body, whole = await read_body(reply, MAX_LISTING)
    finally:
        reply.close()
    return read_listing(body) if whole and reply.status == 200 else None


def offered(
    offers: Sequence[Offer], told: Told, providers: Mapping[str, Provider], principal: Principal
) -> list[Model]:
    """The models that a principal can choose from, the newest first. Pure.

    An exact name is listed as it is; a pattern as the names that it meets among those that its targets are known to
    serve and those that the principal was given by name, unless an earlier one meets them.
    """
    found: dict[str, Model] = {}
    for offer in offers:
        for name in _names(offer, told, providers, principal):
            if name not in found and principal.may_use(name) and _first_to_meet(name, offers) is offer:
                found[name] = Model(name, _facts(name, offer, told))
    return sorted(found.values(), key=lambda model: model.created_at, reverse=True)


def find(models: Sequence[Model], name: str) -> Model | None:
    """The model of an id, or of the alias of one."""
    known = known_model(name)
    by_id = {model.id: model for model in models}
    return by_id.get(name) or (by_id.get(known.id) if known else None)


def _first_to_meet(name: str, offers: Sequence[Offer]) -> Offer | None:
    return next((offer for offer in offers if matches(offer.model, name)), None)


def _names(offer: Offer, told: Told, providers: Mapping[str, Provider], principal: Principal) -> list[str]:
    if "*" not in offer.model:
        return [offer.model]
    names: list[str] = []
    for target in offer.targets:
        if target.model is not None:
            names += [known.id for known in catalogue().models]
        elif target.provider in told:
            names += told[target.provider]
        else:
            names += providers[target.provider].models
    return names + [name for name in principal.models if "*" not in name]


def _facts(name: str, offer: Offer, told: Told) -> Mapping[str, Raw]:
    for target in offer.targets:
        wanted = target.model or name
        known = known_model(wanted)
        theirs = told.get(target.provider, {})
        model = theirs.get(wanted) or (theirs.get(known.id) if known else None) or (known.model if known else None)
        if model is not None:
            return model.facts
    return {}
