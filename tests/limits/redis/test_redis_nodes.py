"""Finding the server: Sentinels and a failover, clusters, replicas, TLS, passwords, Unix sockets."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from support.proxy import proxy_to
from support.valkey import Valkey, redis_store, valkey_server
from support.waiting import until, until_true

from bud_asgi.limit import Limit
from bud_asgi.limits import Charge, StoreUnavailable
from bud_asgi.limits.redis import StoreTiming

ONE = [Charge(Limit("requests", 3, 60.0), "a", 1)]
WORD = "hidden-password"
SLOW = StoreTiming(silence=1.0, connect_within=30.0, first_pause=0.05, longest_pause=0.2)
"""For servers that are found through others: redis-py makes several connections for that."""


async def works(server: Valkey, url: str, **options: Any) -> None:
    """Assert that a store at that URL counts in that server."""
    settings: dict[str, Any] = {"on_failure": "closed", "timing": SLOW, **options}
    async with redis_store(server, url=url, **settings) as store:
        for remaining in (2, 1):
            granted = await store.reserve(ONE)
            assert granted.statuses[0].remaining == remaining
        await store.settle(granted.reservation, [0])
        assert store.open == 1


async def test_a_password_is_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with valkey_server("--requirepass", WORD, "--databases", "4") as server:
        for login, code in ((":wrong-password@", "WRONGPASS"), ("", "NOAUTH"), (f"nobody:{WORD}@", "WRONGPASS")):
            caplog.clear()
            url = f"redis://{login}127.0.0.1:{server.port}"
            async with redis_store(server, url=url, on_failure="closed") as store:
                with pytest.raises(StoreUnavailable) as error:
                    await store.reserve(ONE)
                (line,) = caplog.messages
                assert code in line
                assert WORD not in line + str(error.value) + error.value.reason
        async with redis_store(server, url=f"redis://default:{WORD}@127.0.0.1:{server.port}/3") as store:
            assert len((await store.reserve(ONE)).statuses) == 1


async def test_a_database_that_does_not_exist_is_a_failure(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    async with redis_store(valkey, url=f"{valkey.url}99", on_failure="closed") as store:
        with pytest.raises(StoreUnavailable):
            await store.reserve(ONE)
    assert "the server replied ERR" in caplog.messages[0]


async def test_a_unix_socket(tmp_path: Path) -> None:
    with valkey_server("--unixsocket", f"{tmp_path}/valkey.sock") as server:
        await works(server, f"unix://{tmp_path}/valkey.sock")


async def test_tls_is_verified(valkey: Valkey, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with proxy_to(valkey.port, context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0"
        await works(valkey, f"{url}?ssl_ca_certs={tmp_path}/ca.pem")
        async with redis_store(valkey, url=url, on_failure="closed") as store:
            with pytest.raises(StoreUnavailable):
                await store.reserve(ONE)
        assert "its certificate was rejected" in caplog.messages[0]


async def test_a_replica_is_not_written_to(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    with valkey_server("--replicaof", "127.0.0.1", str(valkey.port)) as replica:
        async with redis_store(replica, on_failure="closed") as store:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await store.reserve(ONE)
            assert len(caplog.messages) == 1
            with replica.client as client:
                client.replicaof("NO", "ONE")
            await until_true(lambda: admitted(store))


async def admitted(store: Any) -> bool:
    """Whether a request is admitted now."""
    try:
        await store.reserve([Charge(Limit("requests", 1000), "other", 1)])
    except StoreUnavailable:
        return False
    return True


async def test_a_cluster_of_one_node() -> None:
    with valkey_server("--cluster-enabled", "yes") as server:
        with server.client as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: "cluster_state:ok" in cluster_state(server))
        await works(server, f"redis+cluster://127.0.0.1:1,127.0.0.1:{server.port}")


def cluster_state(server: Valkey) -> str:
    """What the node reports of its cluster."""
    with server.client as client:
        return str(client.execute_command("CLUSTER", "INFO"))


async def test_sentinels_lead_to_the_new_primary_after_a_failover(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with valkey_server() as primary, valkey_server("--replicaof", "127.0.0.1", str(primary.port)) as replica:
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
        )
        with valkey_server(str(config), "--sentinel") as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
            async with redis_store(primary, url=url, on_failure="closed", timing=SLOW) as store:
                granted = await store.reserve(ONE)
                store.server = replica
                await until(lambda: store.open == 1 and replicas(sentinel) == 1)
                primary.stop()
                await until_true(lambda: admitted(store))
                assert store.open == 2
                await store.settle(granted.reservation, [0])
                assert store.open == 1
        assert len([line for line in caplog.messages if "failed" in line]) <= 1


def replicas(sentinel: Valkey) -> int:
    """How many replicas the Sentinel could promote."""
    with sentinel.client as client:
        return len(cast("list[object]", client.execute_command("SENTINEL", "REPLICAS", "main")))
