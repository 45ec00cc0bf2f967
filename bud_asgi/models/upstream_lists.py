"""The upstreams' own model lists: cached, and refreshed in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf

import msgspec

from bud_asgi.http import HttpClient, HttpError, HttpRequest, decode_content, read_body
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.models_api import MAX_LISTING, Model, read_listing
from bud_asgi.providers import Provider, shown_in_log, with_hops

ModelsByProvider = Mapping[str, Mapping[str, Model]]
"""The models that upstreams list: by provider name, then by id in the upstream's order."""

_log = logging.getLogger("bud_asgi")


class ListTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of `UpstreamModelLists`, in seconds.

    `ttl`: the age at which a list is fetched again. `retry_after`: the interval between fetches while there is no
    list. `timeout`: the limit for one fetch. `wait_with_catalogue`: how long a caller waits for the first list of a
    provider that the catalogue covers; `wait_without_catalogue`: how long after the start of the fetch for any other,
    where an empty list would look authoritative.
    """

    ttl: float = 300.0
    retry_after: float = 30.0
    timeout: float = 10.0
    wait_with_catalogue: float = 0.025
    wait_without_catalogue: float = 1.0


DEFAULT_TIMING = ListTiming()


class _Listed(msgspec.Struct, eq=False):
    """The list of one provider, the fetch that runs, and when the last one was started."""

    provider: Provider
    models: Mapping[str, Model] | None = None
    fetch: asyncio.Task[None] | None = None
    started_at: float = -inf


class UpstreamModelLists:
    """The model lists of providers, for one event loop. A list is fetched on first use.

    `clock` gives the seconds that ages and deadlines are measured in. `close` must be called in the end.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        timing: ListTiming = DEFAULT_TIMING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._timing = timing
        self._clock = clock
        self._by_name: dict[str, _Listed] = {}

    async def current(self, providers: Iterable[Provider], *, hops: bytes = b"") -> ModelsByProvider:
        """Return the fetched lists of these providers, and start to fetch those that are missing or expired.

        Waits only for lists that have never been fetched, for the times given by `ListTiming`. A cancelled caller does
        not cancel the fetches: other callers share them. Lists of other providers are forgotten. `hops` is the id of
        this gateway.
        """
        lists = [self._list_of(provider) for provider in providers]
        for name in self._by_name.keys() - {one.provider.name for one in lists}:
            _cancel(self._by_name.pop(name))
        for one in lists:
            self._fetch_if_due(one, hops)
        soon = self._clock() + self._timing.wait_with_catalogue
        for one in lists:
            if one.fetch is not None and one.models is None:
                latest = one.started_at + self._timing.wait_without_catalogue
                deadline = soon if one.provider.models else latest
                await asyncio.wait({one.fetch}, timeout=max(0.0, deadline - self._clock()))
        return {one.provider.name: one.models for one in lists if one.models is not None}

    def close(self) -> None:
        """Cancel the fetches that are running."""
        for one in self._by_name.values():
            _cancel(one)

    def _list_of(self, provider: Provider) -> _Listed:
        """The list of a provider; a new one if the list belongs to another provider of that name."""
        known = self._by_name.get(provider.name)
        if known is None or known.provider is not provider:
            _cancel(known)
            known = self._by_name[provider.name] = _Listed(provider)
        return known

    def _fetch_if_due(self, one: _Listed, hops: bytes) -> None:
        now = self._clock()
        interval = self._timing.ttl if one.models is not None else self._timing.retry_after
        if one.fetch is not None or now - one.started_at < interval:
            return
        request = one.provider.models_request()
        if request is not None:
            one.started_at = now
            one.fetch = asyncio.get_running_loop().create_task(self._fetch(one, with_hops(request, hops)))

    async def _fetch(self, one: _Listed, request: HttpRequest) -> None:
        provider = one.provider
        try:
            async with asyncio.timeout(self._timing.timeout):
                models = await _request_list(self._client, provider, request)
            if models is not None:
                one.models = {model.id: model for model in models}
        except (HttpError, GatewayError, TimeoutError) as error:
            text = str(error) or f"timed out after {self._timing.timeout:g} s"
            reason = shown_in_log(provider.credential, {}, text)
            _log.info("%s: could not fetch the model list: %s", provider.name, reason)
        except Exception:  # noqa: BLE001 - nothing awaits this task, so it has to report its errors itself
            _log.exception("%s: could not fetch the model list", provider.name)
        finally:
            one.fetch = None


def _cancel(one: _Listed | None) -> None:
    if one is not None and one.fetch is not None:
        one.fetch.cancel()


async def _request_list(client: HttpClient, provider: Provider, request: HttpRequest) -> list[Model] | None:
    reply = await client.send(await provider.credential.apply(request, {}))
    try:
        body, complete = await read_body(decode_content(reply), MAX_LISTING)
    finally:
        reply.close()
    return read_listing(body) if complete and reply.status == 200 else None
