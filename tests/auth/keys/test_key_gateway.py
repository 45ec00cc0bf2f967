"""Keys of a store over real sockets: refusals that do not differ, and a PostgreSQL server that goes away."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from support.calls import BODY, UPSTREAM_KEY
from support.postgres import Postgres
from support.serving import serving
from support.waiting import wait_until

from auth.keys.key_stage import CountingStore
from bud_asgi import Anthropic, ApiKeys, MessagesApp, Middleware
from bud_asgi.auth import ApiKey, AuthMiddleware, KeyStore, KeyTiming, SqlKeyStore, hash_api_key, new_api_key
from bud_asgi.testing import StandIn

QUICK = KeyTiming(fresh=0.2, retry=0.1, timeout=2.0)


def app_over(store: KeyStore, upstream: str = "http://127.0.0.1:1", timing: KeyTiming = QUICK) -> MessagesApp:
    provider = Anthropic(api_key=UPSTREAM_KEY, base_url=upstream)
    return MessagesApp(auth=ApiKeys(store=store, timing=timing), providers=[provider])


def post(url: str, key: str) -> httpx.Response:
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    return httpx.post(f"{url}/v1/messages", json=BODY, headers=headers, timeout=30)


async def refused_keys(store: CountingStore) -> dict[str, str]:
    """A key of each kind that is refused, added to the store where it belongs there."""
    past = datetime.now(UTC) - timedelta(hours=1)
    keys = {name: new_api_key() for name in ("unknown", "disabled", "expired", "replaced")}
    await store.add(ApiKey(name="disabled", hash=hash_api_key(keys["disabled"]), enabled=False))
    await store.add(ApiKey(name="expired", hash=hash_api_key(keys["expired"]), expires=past))
    await store.add(ApiKey(name="replaced", hash=hash_api_key(keys["replaced"])))
    await store.rotate("replaced", hash_api_key(new_api_key()), past)
    return {**keys, "mistyped": new_api_key()[:-1] + "?", "short": "sk-bud-x"}


def shown_of(reply: httpx.Response) -> tuple[object, ...]:
    """All of a response but its id and date, and whether the request's body had arrived before it."""
    request_id = reply.headers["request-id"]
    lines = [line for line in reply.headers.multi_items() if line[0] not in {"date", "connection", "request-id"}]
    return reply.status_code, tuple(lines), reply.text.replace(request_id, "ID")


async def test_refused_keys_get_the_same_bytes_and_cost_the_same_calls() -> None:
    store = CountingStore()
    seen: dict[str, tuple[object, object, int]] = {}
    with serving(app_over(store, timing=KeyTiming())) as url:
        for kind, key in (await refused_keys(store)).items():
            before = store.finds
            seen[kind] = shown_of(post(url, key)), shown_of(post(url, key)), store.finds - before
    (first, second, finds), *others = seen.values()
    assert all(other == (first, second, finds) for other in others), seen
    assert (first, finds) == (second, 1)
    assert "invalid x-api-key" in str(first)


def test_a_gateway_outlives_its_key_store(postgres_server: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bud_asgi")
    database = postgres_server.new_database()
    with StandIn(api_key=UPSTREAM_KEY).in_thread() as upstream:
        app = app_over(SqlKeyStore(database, timeout=0.5), upstream.base_url)
        with serving(app, lifespan="on") as url:
            missing = post(url, new_api_key())
            assert missing.status_code == 529  # there are no tables yet
            assert httpx.get(f"{url}/readyz").status_code == 503
            key, other = _create(database, "known"), _create(database, "other")
            wait_until(lambda: post(url, key).status_code == 200, "the tables are found")
            assert (httpx.get(f"{url}/readyz").status_code, httpx.get(f"{url}/readyz").content) == (200, b"")
            postgres_server.stop()
            try:
                wait_until(lambda: post(url, other).status_code == 529, "the outage is noticed")
                refused = post(url, other)
                assert refused.json()["error"]["type"] == "overloaded_error"
                assert refused.headers["retry-after"] == "1"
                assert post(url, key).status_code == 200
                ready = httpx.get(f"{url}/readyz")
                assert (ready.status_code, ready.json()) == (200, {"authentication": "degraded"})
                with serving(app_over(SqlKeyStore(database, timeout=0.5))) as cold:
                    assert httpx.get(f"{cold}/readyz", timeout=30).status_code == 503
            finally:
                postgres_server.start()
            wait_until(lambda: post(url, other).status_code == 200, "the store is used again")
            assert httpx.get(f"{url}/readyz").content == b""
    ours = [record.getMessage() for record in caplog.records if record.name == "bud_asgi"]
    assert any("the key store failed" in line for line in ours)
    assert any("the key store works again" in line for line in ours)
    assert not any(one in caplog.text for one in (key, other, hash_api_key(key)))


def _create(database: str, name: str) -> str:
    """Create a key, from another event loop than the server's."""

    async def create() -> str:
        store = SqlKeyStore(database, timeout=10.0)
        await store.migrate()
        try:
            return (await ApiKeys(store=store).admin.create(name)).key.reveal()
        finally:
            await store.aclose()

    return asyncio.run(create())


def test_a_stack_of_middleware_closes_its_key_store_and_reports_it(tmp_path: Path) -> None:
    store = CountingStore()
    layers = [Middleware(AuthMiddleware, backend=ApiKeys(store=store))]
    app = MessagesApp(middleware=layers, providers=[Anthropic(api_key=UPSTREAM_KEY)])
    with serving(app, lifespan="on") as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert store.finds == 1
    assert store.closed
    missing = app_over(SqlKeyStore(f"sqlite:{tmp_path}/missing.db"))
    with serving(missing) as url:
        assert httpx.get(f"{url}/readyz").status_code == 503
    assert not (tmp_path / "missing.db").exists()
