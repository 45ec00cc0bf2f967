"""The upstreams' own model lists: cached, and refreshed in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

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


class UpstreamModelLists:
    """The model lists of all providers, for one event loop. A list is fetched on first use.

    `clock` gives the seconds that ages and deadlines are measured in. `hops` is this gateway's id.
    `close` must be called in the end.
    """

    def __init__(
        self,
        providers: Iterable[Provider],
        client: HttpClient,
        *,
        timing: ListTiming = DEFAULT_TIMING,
        clock: Callable[[], float] = time.monotonic,
        hops: bytes = b"",
    ) -> None:
        self._client = client
        self._providers = tuple(providers)
        self._timing = timing
        self._clock = clock
        self._hops = hops
        self._lists: dict[str, Mapping[str, Model]] = {}
        self._started_at: dict[str, float] = {}
        self._fetches: dict[str, asyncio.Task[None]] = {}

    async def current(self) -> ModelsByProvider:
        """Return the lists that are known, and start to fetch those that are missing or expired.

        Waits only for lists that have never been fetched, for the times given by `ListTiming`. A cancelled caller does
        not cancel the fetches: other callers share them.
        """
        for provider in self._providers:
            self._fetch_if_due(provider)
        soon = self._clock() + self._timing.wait_with_catalogue
        for provider in self._providers:
            fetch = self._fetches.get(provider.name)
            if fetch is not None and provider.name not in self._lists:
                latest = self._started_at[provider.name] + self._timing.wait_without_catalogue
                deadline = soon if provider.models else latest
                await asyncio.wait({fetch}, timeout=max(0.0, deadline - self._clock()))
        return self._lists

    def close(self) -> None:
        """Cancel the fetches that are running."""
        for fetch in self._fetches.values():
            fetch.cancel()

    def _fetch_if_due(self, provider: Provider) -> None:
        name, now = provider.name, self._clock()
        interval = self._timing.ttl if name in self._lists else self._timing.retry_after
        if name in self._fetches or now - self._started_at.get(name, -interval) < interval:
            return
        request = provider.models_request()
        if request is not None:
            request = with_hops(request, self._hops)
            self._started_at[name] = now
            self._fetches[name] = asyncio.get_running_loop().create_task(self._fetch(provider, request))

    async def _fetch(self, provider: Provider, request: HttpRequest) -> None:
        try:
            async with asyncio.timeout(self._timing.timeout):
                models = await _request_list(self._client, provider, request)
            if models is not None:
                self._lists[provider.name] = {model.id: model for model in models}
        except (HttpError, GatewayError, TimeoutError) as error:
            text = str(error) or f"timed out after {self._timing.timeout:g} s"
            reason = shown_in_log(provider.credential, {}, text)
            _log.info("%s: could not fetch the model list: %s", provider.name, reason)
        except Exception:  # noqa: BLE001 - nothing awaits this task, so it has to report its errors itself
            _log.exception("%s: could not fetch the model list", provider.name)
        finally:
            self._fetches.pop(provider.name, None)


async def _request_list(client: HttpClient, provider: Provider, request: HttpRequest) -> list[Model] | None:
    reply = await client.send(await provider.credential.apply(request, {}))
    try:
        body, complete = await read_body(decode_content(reply), MAX_LISTING)
    finally:
        reply.close()
    return read_listing(body) if complete and reply.status == 200 else None
