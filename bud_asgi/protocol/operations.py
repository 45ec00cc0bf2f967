"""The operations that the gateway serves, by path and method (vendor page "API overview")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from bud_asgi.protocol.errors import MethodNotAllowed, NotFound

Operation = Literal[
    "messages.create", "messages.count_tokens", "models.list", "models.retrieve", "hello", "healthz", "readyz"
]
"""The operation that a request addresses."""

PUBLIC: frozenset[Operation] = frozenset(("hello", "healthz", "readyz"))
"""The operations that need no credential."""

MODELS_API: frozenset[Operation] = frozenset(("models.list", "models.retrieve"))
"""The operations of the Models API: they have no request body and are answered by the gateway itself."""

_OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "/v1/messages": {"POST": "messages.create"},
    "/v1/messages/count_tokens": {"POST": "messages.count_tokens"},
    "/v1/models": {"GET": "models.list", "HEAD": "models.list"},
    "/api/hello": {"HEAD": "hello"},
    "/healthz": {"GET": "healthz", "HEAD": "healthz"},
    "/readyz": {"GET": "readyz", "HEAD": "readyz"},
}
_ONE_MODEL: Mapping[str, Operation] = {"GET": "models.retrieve", "HEAD": "models.retrieve"}
_MODEL_PATH = "/v1/models/"
_DOUBLED = re.compile(r"(?:/v1(?:/messages)?)+(/v1/(?:messages(?:/count_tokens)?|models))/?$")
"""The path that a client requests if its base URL has a part of the path already."""
_NOT_SERVED = ("/v1/messages/batches", "/v1/files")


def find_operation(path: str, method: str) -> Operation:
    """Find the operation for a path, relative to the mount prefix. Raises `NotFound`, `MethodNotAllowed`."""
    methods = _OPERATIONS.get(path) or (_ONE_MODEL if path.startswith(_MODEL_PATH) and path != _MODEL_PATH else None)
    if methods is None:
        if any(path == start or path.startswith(f"{start}/") for start in _NOT_SERVED):
            raise NotFound(f"{path} is not served by this gateway")
        if doubled := _DOUBLED.match(path):
            raise NotFound(
                f"Not found. The path is {doubled[1]}: the client's base URL must not contain any part of it"
            )
        raise NotFound("Not found")
    operation = methods.get(method)
    if operation is None:
        raise MethodNotAllowed("Method not allowed", headers={"allow": ", ".join(methods)})
    return operation


def model_of_path(path: str) -> str:
    """The model id in the path of `models.retrieve`."""
    return path.removeprefix(_MODEL_PATH)
