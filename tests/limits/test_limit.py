"""What a limit is, and whose bucket a request asks of."""

from __future__ import annotations

import pytest
from support.asgi import http_scope

from bud_asgi.exchange import Exchange, Principal
from bud_asgi.limits.store import Charge, Limit, charges_of
from bud_asgi.options import OptionError
from bud_asgi.protocol.operations import Operation


@pytest.mark.parametrize(("amount", "window"), [(0, 60.0), (-1, 60.0), (1, 0.0), (1, -1.0)])
def test_a_limit_that_nothing_could_pass_is_refused(amount: int, window: float) -> None:
    with pytest.raises(OptionError, match=r"^(amount: expected a whole number|window: expected a number of seconds)"):
        Limit("requests", amount, window)


def test_a_limit_is_per_minute_and_per_principal_by_default() -> None:
    assert Limit("requests", 5) == Limit("requests", 5, 60.0, "principal")


def test_a_request_takes_one_of_each_limit() -> None:
    each, all_ = Limit("requests", 5), Limit("requests", 50, per="all")
    exchange = Exchange.of(http_scope())
    assert charges_of((each, all_), exchange) == (Charge(each, "messages:", 1), Charge(all_, "messages", 1))
    exchange.principal = Principal(id="p")
    assert charges_of((each, all_), exchange) == (Charge(each, "messages:p", 1), Charge(all_, "messages", 1))


def test_no_principal_shares_the_buckets_of_another() -> None:
    """Not even one whose id looks like the name of a bucket."""
    limits = (Limit("requests", 5), Limit("requests", 50, per="all"))
    keys: list[str] = []
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        exchange = Exchange.of({**http_scope(), "path": path})
        for name in (None, "p", "count_tokens:p", "messages:p", "messages", "count_tokens"):
            exchange.principal = None if name is None else Principal(id=name)
            keys.append(charges_of(limits, exchange)[0].key)
        keys.append(charges_of(limits, exchange)[1].key)
    assert len(set(keys)) == len(keys)


def test_each_kind_of_operation_has_buckets_of_its_own() -> None:
    keys: set[str] = set()
    operations: tuple[Operation, ...] = ("messages.create", "messages.count_tokens", "models.list", "models.retrieve")
    for operation in operations:
        exchange = Exchange.of(http_scope())
        exchange.operation = operation
        keys |= {charge.key for charge in charges_of((Limit("requests", 1), Limit("requests", 2, per="all")), exchange)}
    assert keys == {"messages:", "messages", "count_tokens:", "count_tokens", "models:", "models"}
