"""Errors of Vertex AI's front end, for `enqueue` and `always`: each makes the reply for the request that gets it.

The errors of the model layer are in Anthropic's envelope: `bud_asgi.testing.error` makes them.
"""

from __future__ import annotations

from collections.abc import Callable

from bud_asgi.testing.google.errors import GoogleError, error_info, is_streaming
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Reply
from bud_asgi.testing.vertex.errors import SERVICE, access_denied, unauthenticated
from bud_asgi.testing.vertex.route import Route, parse_route

Fault = Callable[[Received], Reply]


def token_expired() -> Fault:
    """401, as if the token had expired. Clients refresh it and send the request again."""
    return _fault(lambda _: unauthenticated("ACCESS_TOKEN_EXPIRED"))


def permission_denied() -> Fault:
    """403: the caller lacks the role, or the project does not exist."""
    return _fault(lambda route: access_denied(route.resource))


def model_not_allowed() -> Fault:
    """400 FAILED_PRECONDITION: the model is not enabled for the project."""
    message = "Project `{}` is not allowed to use Publisher Model `{}`"
    return _fault(lambda route: GoogleError("FAILED_PRECONDITION", message.format(route.project, route.resource)))


def quota_exceeded() -> Fault:
    """429: a quota of the project is used up. The reply has no `retry-after`."""

    def error(route: Route) -> GoogleError:
        metric = f"{'global_' if route.location == 'global' else ''}online_prediction_requests_per_base_model"
        base = f"anthropic-{route.model.partition('@')[0]}"
        return GoogleError(
            "RESOURCE_EXHAUSTED",
            f"Quota exceeded for {SERVICE}/{metric} with base model: {base}. Please submit a quota increase request. "
            "https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai.",
            (error_info("RATE_LIMIT_EXCEEDED", consumer=f"projects/{route.project}", service=SERVICE),),
        )

    return _fault(error)


def unavailable() -> Fault:
    """503: the service is overloaded."""
    return _fault(lambda _: GoogleError("UNAVAILABLE", "The service is currently unavailable."))


def _fault(error: Callable[[Route], GoogleError]) -> Fault:
    def reply(received: Received) -> Reply:
        route = parse_route(received)
        if route is None:
            raise ValueError(f"not a path of a Claude model: {received.path!r}")
        return error(route).reply(as_array=is_streaming(received))

    return reply
