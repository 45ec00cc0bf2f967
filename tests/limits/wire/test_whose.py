"""For whom a limit counts: each operation, and the limits of a principal, team, model or function; observed limits."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support.limited import Limited, limited

from bud_asgi import Exchange, Limit, Principal
from bud_asgi.testing import Usage, text

SPENT = text("Hello", usage=Usage(input_tokens=5000, output_tokens=5000))


def statuses(*replies: httpx.Response) -> list[int]:
    return [reply.status_code for reply in replies]


def posts(here: Limited, *callers: str, **fields: Any) -> list[int]:
    return statuses(*(here.post(caller, **fields) for caller in callers))


def test_messages_counts_and_models_have_buckets_of_their_own() -> None:
    with limited(Limit("requests", 2), Limit("requests", 3, 3600.0, per="all")) as here:
        assert posts(here, "ann", "ann", "ann") == [200, 200, 429]
        assert statuses(*(here.count("ann") for _ in range(3))) == [200, 200, 429]
        assert statuses(*(here.models("ann") for _ in range(3))) == [200, 200, 429]
        assert here.booked_now("ann").requests in {2, 3}


def test_counting_and_models_are_not_stopped_by_limits_of_tokens() -> None:
    limits = [Limit(kind, 1) for kind in ("tokens", "input_tokens", "output_tokens")]
    with limited(*limits) as here:
        here.upstream.enqueue(SPENT)
        assert posts(here, "ann", "ann") == [200, 429]
        assert statuses(here.count("ann"), here.models("ann")) == [200, 200]
        assert [one.remaining for one in here.standing("ann")] == [0, 0, 0]


def test_observed_limits_refuse_nothing_and_are_reported() -> None:
    observed = [
        Limit("requests", 1, mode="observe"),
        Limit("tokens", 1, per="all", mode="observe"),
        Limit("concurrent", 1, mode="observe"),
    ]
    with limited(*observed, Limit("requests", 100)) as here:
        assert posts(here, "ann", "ann", "ann") == [200] * 3
        here.here.accounts(3)
        over = [[limit.kind for limit in one.over_limits] for one in here.accounts("ann")]
        assert over[1:] == [["requests", "tokens"]] * 2
        assert all(one.refused_by is None for one in here.accounts("ann"))
        (requests, _, _, enforced) = [one.used for one in here.standing("ann")]
        assert (requests, enforced) == (3, 3)


def test_a_principals_own_limits_replace_the_general_ones_of_the_same_kind_and_window() -> None:
    ann = Principal(id="ann", limits=(Limit("requests", 3), Limit("requests", 4, 3600.0)))
    few = Principal(id="few", limits=(Limit("requests", 1),))
    general = [Limit("requests", 2), Limit("requests", 6, per="all")]
    with limited(*general, principals=[ann, few]) as here:
        assert posts(here, "ann", "ann", "ann", "ann") == [200, 200, 200, 429]
        assert posts(here, "few", "few") == [200, 429]
        assert posts(here, "bob", "bob", "bob") == [200, 200, 429]
        assert posts(here, "eve") == [429]  # all together have used 6


def test_a_team_shares_its_limit() -> None:
    people = [Principal(id="ann", team="red"), Principal(id="bob", team="red"), Principal(id="eve", team="blue")]
    with limited(Limit("requests", 2, per="team"), principals=people) as here:
        assert posts(here, "ann", "bob", "ann", "bob", "eve", "alone", "alone", "alone") == [
            *[200, 200, 429, 429],
            *[200, 200, 200, 200],
        ]
        refused = here.post("ann").json()["error"]["message"]
        assert refused.startswith("This request would exceed your team's rate limit of 2 requests per minute.")


def test_a_model_has_its_limit_whoever_calls() -> None:
    with limited(Limit("requests", 2, per="model"), Limit("requests", 1, models=("claude-opus-*",))) as here:
        assert posts(here, "ann", "bob", "eve", model="claude-haiku-4-5") == [200, 200, 429]
        assert posts(here, "ann", "ann", model="claude-opus-5-5") == [200, 429]
        assert posts(here, "ann", "ann", model="claude-sonnet-5-5") == [200, 200]
        assert statuses(here.count("ann"), here.models("ann")) == [200, 200]


def tenant(exchange: Exchange) -> str | None:
    return exchange.headers.get(b"x-tenant", b"").decode() or None


def test_a_function_of_the_host_names_the_bucket() -> None:
    with limited(Limit("requests", 1, per=tenant)) as here:

        def post(caller: str, name: str) -> int:
            headers = {"x-api-key": caller, "anthropic-version": "2023-06-01", **({"x-tenant": name} if name else {})}
            return here.here.post(headers=headers).status_code

        assert [post("ann", "a"), post("bob", "a"), post("ann", "b"), post("ann", ""), post("ann", "")] == [
            *[200, 429, 200, 200, 200]
        ]


@pytest.mark.parametrize("option", ["teams", "principals"])
def test_a_limit_for_some_does_not_stop_others(option: str) -> None:
    options: dict[str, Any] = {option: ("re*",)}
    people = [Principal(id="rea", team="x"), Principal(id="ann", team="red"), Principal(id="bob", team="blue")]
    with limited(Limit("requests", 1, **options), principals=people) as here:
        stopped = "ann" if option == "teams" else "rea"
        for name in ("rea", "ann", "bob"):
            assert posts(here, name, name) == [200, 429 if name == stopped else 200]
