"""Errors of Vertex AI's front end, with the names of projects and models in them, as the real ones have them.

The errors of the model layer are in Anthropic's envelope.
"""

from __future__ import annotations

from bud_asgi.testing.google.errors import UNAUTHENTICATED, GoogleError, error_info

SERVICE = "aiplatform.googleapis.com"


def model_not_found(resource: str) -> GoogleError:
    """The model does not exist, or the project has no access to it."""
    return GoogleError(
        "NOT_FOUND",
        f"Publisher Model `{resource}` was not found or your project does not have access to it. Please ensure you are "
        "using a valid model version. For more information, see: "
        "https://cloud.google.com/vertex-ai/generative-ai/docs/learn/model-versions",
    )


def access_denied(resource: str) -> GoogleError:
    """The caller lacks the permission, or the project does not exist."""
    permission, name = "aiplatform.endpoints.predict", f"//{SERVICE}/{resource}"
    return GoogleError(
        "PERMISSION_DENIED",
        f"Permission '{permission}' denied on resource '{name}' (or it may not exist).",
        (error_info("IAM_PERMISSION_DENIED", SERVICE, resource=resource, permission=permission),),
    )


def unauthenticated(reason: str) -> GoogleError:
    """The token is missing, invalid or expired; `reason` is that of the `ErrorInfo`."""
    return GoogleError("UNAUTHENTICATED", UNAUTHENTICATED, (error_info(reason, service=SERVICE),))


def insufficient_scopes() -> GoogleError:
    """The token is valid, but lacks the scope of this API."""
    detail = error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", service=SERVICE)
    return GoogleError("PERMISSION_DENIED", "Request had insufficient authentication scopes.", (detail,))


def user_project_denied(project: str) -> GoogleError:
    """The caller may not use the project in `x-goog-user-project`."""
    return GoogleError(
        "PERMISSION_DENIED",
        f"Caller does not have required permission to use project {project}. Grant the caller the "
        "roles/serviceusage.serviceUsageConsumer role, or a custom role with the serviceusage.services.use permission, "
        f"by visiting https://console.developers.google.com/iam-admin/iam/project?project={project} and then retry.",
        (error_info("USER_PROJECT_DENIED", consumer=f"projects/{project}", service=SERVICE),),
    )
