"""The operations, by path and method."""

from __future__ import annotations

import pytest

from bud_asgi.protocol.errors import GatewayError, MethodNotAllowed, NotFound
from bud_asgi.protocol.operations import MODELS_API, PUBLIC, find_operation, model_of_path

SERVED: dict[tuple[str, str], str] = {
    ("POST", "/v1/messages"): "messages.create",
    ("POST", "/v1/messages/count_tokens"): "messages.count_tokens",
    ("GET", "/v1/models"): "models.list",
    ("HEAD", "/v1/models"): "models.list",
    ("GET", "/v1/models/claude-a"): "models.retrieve",
    ("HEAD", "/v1/models/claude-a"): "models.retrieve",
    ("GET", "/v1/models/meta/llama-4"): "models.retrieve",
    ("GET", "/v1/models//"): "models.retrieve",
    ("HEAD", "/api/hello"): "hello",
    ("GET", "/healthz"): "healthz",
    ("HEAD", "/healthz"): "healthz",
    ("GET", "/readyz"): "readyz",
    ("HEAD", "/readyz"): "readyz",
}


@pytest.mark.parametrize(("request_line", "operation"), SERVED.items(), ids=map(" ".join, SERVED))
def test_an_operation_is_found_by_path_and_method(request_line: tuple[str, str], operation: str) -> None:
    method, path = request_line
    assert find_operation(path, method) == operation


ALLOWED: dict[str, str] = {
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/models": "GET, HEAD",
    "/v1/models/claude-a": "GET, HEAD",
    "/api/hello": "HEAD",
    "/healthz": "GET, HEAD",
    "/readyz": "GET, HEAD",
}


@pytest.mark.parametrize(("path", "allow"), ALLOWED.items(), ids=ALLOWED.keys())
def test_another_method_is_refused_with_the_allowed_ones(path: str, allow: str) -> None:
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", ""} - {*allow.split(", ")}:
        with pytest.raises(MethodNotAllowed) as refused:
            find_operation(path, method)
        assert (refused.value.status, refused.value.headers) == (405, {"allow": allow}), method
    for method in allow.split(", "):
        find_operation(path, method)


UNKNOWN = [
    "",
    "/",
    "/v1",
    "/v1/",
    "/v1/messages/",
    "/v1/messages/count_tokens/",
    "/v1/messages/count_tokens/x",
    "/V1/messages",
    "/v1/modelsx",
    "/v1/models/",
    "/v1/messages/batchesx",
    "/v1/filesx",
    "/v1/complete",
    "/healthz/",
    "/v1/v1",
    "/v1/v1/messagesx",
    "/v1/v2/messages",
]


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v1/v1/messages", "/v1/messages"),
        ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/messages/v1/messages", "/v1/messages"),
        ("/v1/v1/v1/messages/", "/v1/messages"),
    ],
)
def test_a_doubled_path_is_not_found_and_the_right_one_is_named(path: str, right: str) -> None:
    with pytest.raises(NotFound, match=rf"^Not found\. The path is {right}: the client's base URL must not contain"):
        find_operation(path, "POST")


@pytest.mark.parametrize("path", UNKNOWN)
def test_any_other_path_is_not_found(path: str) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(NotFound, match=r"^Not found$"):
            find_operation(path, method)


@pytest.mark.parametrize(
    "path", ["/v1/messages/batches", "/v1/messages/batches/b/results", "/v1/files", "/v1/files/f/content", "/v1/files/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_batches_and_files_are_named_as_not_served(path: str, method: str) -> None:
    with pytest.raises(NotFound) as refused:
        find_operation(path, method)
    assert (refused.value.type, str(refused.value)) == ("not_found_error", f"{path} is not served by this gateway")
    assert isinstance(refused.value, GatewayError)


def test_public_operations_and_the_models_api_are_disjoint() -> None:
    assert not PUBLIC & MODELS_API
    assert set(SERVED.values()) - PUBLIC - MODELS_API == {"messages.create", "messages.count_tokens"}


@pytest.mark.parametrize("name", ["claude-a", "meta/llama-4", "/", "é", "/v1/models/x"])
def test_the_model_id_is_the_rest_of_the_path(name: str) -> None:
    assert model_of_path(f"/v1/models/{name}") == name
