"""docs/limits.md is true: its programs run and its files load, and it shows what the code does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import pytest
from support.serving import serving
from support.valkey import Valkey, new_prefix

import bud_asgi
from bud_asgi import Limit, MemoryStore, Principal, RedisStore
from bud_asgi.limits import Charge, RateLimited
from bud_asgi.limits.fair_queue import MAX_WAITING
from bud_asgi.limits.refusals import MANY
from bud_asgi.limits.store import MAX_DEBT
from bud_asgi.testing import StandIn

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
KEY = "sk-bud-the-callers-key"


def section(title: str) -> str:
    """The text below a heading."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def names_of(title: str, upstream_url: str = "") -> dict[str, Any]:
    """What the program of a section defines, with the hash of our key and the upstream that we have."""
    (program,) = re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)
    program = HASH.sub(bud_asgi.hash_api_key(KEY), program)
    program = program.replace(
        'from_env("ANTHROPIC_API_KEY")', f'from_env("ANTHROPIC_API_KEY"), base_url="{upstream_url}"'
    )
    names: dict[str, Any] = {}
    exec(compile(program, "docs/limits.md", "exec"), names)
    return names


def ask(url: str, **headers: str) -> Mapping[str, str]:
    """Request a message with the official SDK, and return the headers of the reply."""
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, default_headers=headers) as client:
        return client.messages.with_raw_response.create(
            model="claude-opus-5-5", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
        ).headers


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream's key, where the programs look for it."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-upstream")


def test_the_first_program_limits_every_kind_and_the_key_has_limits_of_its_own() -> None:
    with StandIn(api_key="sk-ant-upstream").in_thread() as upstream:
        messages = names_of("What can be limited", upstream.base_url)["messages"]
        with serving(messages) as url:
            headers = ask(url, **{"x-tenant": "acme"})
            assert headers["anthropic-ratelimit-requests-limit"] == "600"
            assert headers["anthropic-ratelimit-input-tokens-limit"] == "2000000"
            assert headers["anthropic-ratelimit-output-tokens-limit"] == "50000"
            assert headers["anthropic-ratelimit-tokens-limit"] == "1000000"
            assert "anthropic-ratelimit-tokens-limit" not in ask(url)


def test_every_option_of_a_limit_is_documented() -> None:
    for option in Limit.__struct_fields__:
        assert f"`{option}`" in section("What can be limited"), option


def test_every_kind_is_documented() -> None:
    for kind in ("requests", "input_tokens", "output_tokens", "tokens", "concurrent"):
        assert f"| `{kind}` |" in section("How it counts")


def test_the_refusal_is_the_one_that_is_shown() -> None:
    shown = re.findall(r"^(\S+): (.*)$", section("What a caller sees").partition("{")[0], re.MULTILINE)
    message = json.loads(re.findall(r"^\{.*\}$", section("What a caller sees"), re.MULTILINE)[0])["error"]["message"]
    store, charges = MemoryStore(clock=lambda: 1000.0), [Charge(Limit("requests", 2), "me", 1)]

    async def refusal() -> RateLimited:
        await store.reserve(charges)
        await store.reserve(charges)
        with pytest.raises(RateLimited) as refused:
            await store.reserve(charges)
        return refused.value

    error = asyncio.run(refusal())
    assert str(error) == message
    assert [name for name, _ in shown] == list(error.headers)
    assert {name: value for name, value in shown if "reset" not in name}.items() <= dict(error.headers).items()


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    assert f"At most {MAX_WAITING} requests" in PAGE
    assert MAX_DEBT == 10
    assert "up to ten\ntimes the amount" in PAGE
    assert MANY == 5
    assert "From the sixth refusal" in PAGE


def test_the_program_with_a_store_counts_in_the_server(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITS_URL", valkey.url)
    with StandIn(api_key="sk-ant-upstream").in_thread() as upstream:
        messages = names_of("Several processes and machines", upstream.base_url)["messages"]
        with serving(messages) as url:
            remaining = 60
            for _ in range(20):  # the first calls may be too early: the deadline of 50 ms is short on a busy machine
                ask(url)
                with valkey.client as client:
                    if any(client.scan_iter("{bud_asgi}:*")):
                        remaining = int(ask(url)["anthropic-ratelimit-requests-remaining"])
                        break
            assert remaining < 60


def test_every_option_and_policy_of_the_store_is_documented() -> None:
    page = section("Several processes and machines")
    for option in ("url", "timeout", "on_failure", "replicas", "prefix", "lease"):
        assert f"| `{option}` |" in page, option
    for policy in ("open", "closed", "local"):
        assert f'| `"{policy}"` |' in page, policy


@pytest.mark.parametrize("url", re.findall(r"^\| `(\w[\w+]*://[^`]*)` \|", PAGE, re.MULTILINE))
def test_a_url_is_accepted(url: str) -> None:
    assert "password" not in repr(RedisStore(url))


def test_a_key_expires_a_minute_after_its_bucket_is_full(valkey: Valkey) -> None:
    prefix = new_prefix()

    async def use() -> None:
        store = RedisStore(valkey.url, prefix=prefix, timeout=30.0, lease=1.0)
        granted = await store.reserve([Charge(Limit("requests", 2, 100), "me", 1)])
        await store.settle(granted.reservation, [1])
        await store.aclose()

    asyncio.run(use())
    with valkey.client as client:
        (key,) = client.scan_iter(f"{{{prefix}}}:*")
        assert 100 < client.pttl(key) / 1000 <= 50 + 60 + 1


def test_the_program_of_the_inspection_reports() -> None:
    report = names_of("Inspecting")["report"]
    messages = bud_asgi.MessagesApp(
        auth=bud_asgi.Anonymous(), providers=[bud_asgi.Anthropic(api_key="k")], limits=[Limit("requests", 60)]
    )
    assert asyncio.run(report(messages)) == ["requests: 0 used, 60 left"]
    (standing,) = asyncio.run(messages.limits.standing(Principal(id="ci")))
    for field in msgspec.structs.asdict(standing):
        assert f"`{field}`" in section("Inspecting"), field


def test_the_program_in_front_of_another_app_limits_it() -> None:
    app = names_of("In front of another app")["app"]
    with serving(app) as url, httpx.Client(base_url=url, headers={"x-user": "ada"}) as ada:
        assert ada.post("/translate", content=b"word " * 400).json() == {"words": 400}
        later = ada.post("/translate", content=b"word")
        assert 590 <= int(later.headers["anthropic-ratelimit-tokens-remaining"]) <= 610
        assert ada.post("/translate", content=b"word " * 4000).status_code == 429
        assert httpx.post(f"{url}/translate").status_code == 401


def test_the_store_of_ones_own_counts_refusals() -> None:
    store = names_of("A store of your own")["CountedStore"](MemoryStore())
    with StandIn(api_key="sk-ant-upstream").in_thread() as upstream:
        messages = bud_asgi.MessagesApp(
            auth=bud_asgi.ApiKeys({"ci": bud_asgi.hash_api_key(KEY)}),
            providers=[bud_asgi.Anthropic(api_key="sk-ant-upstream", base_url=upstream.base_url)],
            limits=[Limit("requests", 1, 3600)],
            store=store,
        )
        with serving(messages) as url:
            ask(url)
            with pytest.raises(anthropic.RateLimitError):
                ask(url)
    assert store.refusals == {"requests": 1}
