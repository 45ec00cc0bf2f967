"""What Vertex AI's front end says when it refuses: with the names of projects and models in it, as the real one does.

Each fault is for `enqueue` and `always`: it makes the reply for the request that gets it. The errors of the model
layer are Anthropic's envelope: `error` makes those.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

import msgspec

from bud_asgi.testing.google.errors import UNAUTHENTICATED, GoogleError, reason, streams
from bud_asgi.testing.server.received import Received
from bud_asgi.testing.server.replies import Reply

SERVICE = "aiplatform.googleapis.com"
Fault = Callable[[Received], Reply]

_ROUTE = re.compile(
    r"/v1/projects/([^/]+)/locations/([^/]+)/publishers/anthropic/models/([^/:]+):(rawPredict|streamRawPredict)"
)


class Route(msgspec.Struct, frozen=True):
    """What a request's path names."""

    project: str
    location: str
    model: str
    method: str

    @property
    def counting(self) -> bool:
        """Whether tokens are to be counted; the model stands in the body then."""
        return self.model == "count-tokens"

    @property
    def resource(self) -> str:
        """The model's full name."""
        return f"projects/{self.project}/locations/{self.location}/publishers/anthropic/models/{self.model}"


def route_of(received: Received) -> Route | None:
    """What the path names; `None` if it is none of a method that Claude models have."""
    found = _ROUTE.fullmatch(received.path.decode("latin-1"))
    return Route(*(unquote(part) for part in found.groups())) if found else None


def not_found(resource: str) -> GoogleError:
    """The model isn't there, or not for this project."""
    return GoogleError(
        "NOT_FOUND",
        f"Publisher Model `{resource}` was not found or your project does not have access to it. Please ensure you are "
        "using a valid model version. For more information, see: "
        "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions",
    )


def denied(resource: str) -> GoogleError:
    """The caller may not, or there is no such project."""
    permission, name = "aiplatform.endpoints.predict", f"//{SERVICE}/{resource}"
    return GoogleError(
        "PERMISSION_DENIED",
        f"Permission '{permission}' denied on resource '{name}' (or it may not exist).",
        (reason("IAM_PERMISSION_DENIED", SERVICE, resource=resource, permission=permission),),
    )


def unauthenticated(why: str) -> GoogleError:
    """The token isn't one of Google's, or its time is over."""
    return GoogleError("UNAUTHENTICATED", UNAUTHENTICATED, (reason(why, service=SERVICE),))


def scopes_insufficient() -> GoogleError:
    """The token is good, but not for this API."""
    detail = reason("ACCESS_TOKEN_SCOPE_INSUFFICIENT", service=SERVICE)
    return GoogleError("PERMISSION_DENIED", "Request had insufficient authentication scopes.", (detail,))


def user_project_denied(project: str) -> GoogleError:
    """The caller may not use the project that `x-goog-user-project` names."""
    return GoogleError(
        "PERMISSION_DENIED",
        f"Caller does not have required permission to use project {project}. Grant the caller the "
        "roles/serviceusage.serviceUsageConsumer role, or a custom role with the serviceusage.services.use permission, "
        f"by visiting https://console.developers.google.com/iam-admin/iam/project?project={project} and then retry.",
        (reason("USER_PROJECT_DENIED", consumer=f"projects/{project}", service=SERVICE),),
    )


def token_expired() -> Fault:
    """401, as if the token's time were over: refresh it, and ask once more."""
    return _told(lambda _: unauthenticated("ACCESS_TOKEN_EXPIRED"))


def permission_denied() -> Fault:
    """403: the caller lacks the role, or the project isn't there."""
    return _told(lambda route: denied(route.resource))


def model_not_allowed() -> Fault:
    """400 FAILED_PRECONDITION: the model isn't enabled for the project."""
    words = "Project `{}` is not allowed to use Publisher Model `{}`"
    return _told(lambda route: GoogleError("FAILED_PRECONDITION", words.format(route.project, route.resource)))


def quota_exceeded() -> Fault:
    """429: a quota of the project is used up. It comes without `retry-after`."""

    def error(route: Route) -> GoogleError:
        metric = f"{'global_' if route.location == 'global' else ''}online_prediction_requests_per_base_model"
        base = f"anthropic-{route.model.partition('@')[0]}"
        return GoogleError(
            "RESOURCE_EXHAUSTED",
            f"Quota exceeded for {SERVICE}/{metric} with base model: {base}. Please submit a quota increase request. "
            "https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai.",
            (reason("RATE_LIMIT_EXCEEDED", consumer=f"projects/{route.project}", service=SERVICE),),
        )

    return _told(error)


def unavailable() -> Fault:
    """503: the service is overloaded."""
    return _told(lambda _: GoogleError("UNAVAILABLE", "The service is currently unavailable."))


def _told(error: Callable[[Route], GoogleError]) -> Fault:
    def reply(received: Received) -> Reply:
        route = route_of(received)
        if route is None:
            raise ValueError(f"no path of a Claude model: {received.path!r}")
        return error(route).reply(listed=streams(received))

    return reply
