"""Resolving: from the requested model to a route that the principal may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bud_asgi.exchange import Exchange, Offer, Principal, ResolvedRoute


class Router(Protocol):
    """Knows which models there are, and who may use them."""

    def resolve(self, model: str, principal: Principal | None) -> ResolvedRoute:
        """The route for a model name as the client wrote it. Pure: no I/O, no clock.

        Raises `NotFound` for a name that is not served, `ModelNotAllowed` for one that this principal may not use.
        """
        ...

    def offers(self, principal: Principal | None) -> Sequence[Offer]:
        """Everything that can be resolved, in the order of the look-up: what the Models API lists. Pure."""
        ...


def resolve(router: Router, exchange: Exchange) -> None:
    """Set the exchange's route. The request must have been read. Raises `NotFound`, `ModelNotAllowed`."""
    exchange.route = router.resolve(exchange.decoded_request.model, exchange.principal)
