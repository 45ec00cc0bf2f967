"""The operation of a scope: what is remembered changes nothing, and stays small."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope
from support.counts import examples

from bud_asgi.hosting import known_operations, local_path, operation_of
from bud_asgi.protocol.errors import GatewayError
from bud_asgi.protocol.operations import Operation, find_operation

PREFIXES = st.sampled_from(["", "/", "/v1", "/llm", "/llm/", "/api/llm"])
PATHS = st.sampled_from(["/v1/messages", "/v1/models", "/v1/models/m", "/messages", "/healthz", "", "/v1/files"])
METHODS = st.sampled_from(["GET", "POST", "HEAD"])


def scope_of(path: str, prefix: str = "", method: str = "POST", raw_path: str = "") -> Scope:
    return {"type": "http", "path": path, "root_path": prefix, "method": method, "raw_path": raw_path.encode()}


def result_of(find: Callable[[Scope], Operation], scope: Scope) -> Operation | type[GatewayError]:
    """The operation, or the class of the error."""
    try:
        return find(scope)
    except GatewayError as error:
        return type(error)


def found_anew(scope: Scope) -> Operation:
    return find_operation(local_path(scope), scope["method"])


@given(
    start=PREFIXES, path=PATHS, slash=st.sampled_from(["", "/"]), root_path=PREFIXES, method=METHODS, sent=st.booleans()
)
@examples(100, 3_000)
def test_the_operation_does_not_depend_on_what_is_remembered(
    start: str, path: str, slash: str, root_path: str, method: str, sent: bool
) -> None:
    scope = scope_of(start + path + slash, root_path, method, start + path + (slash if sent else ""))
    for _ in range(2):
        assert result_of(operation_of, scope) == result_of(found_anew, scope)


def test_the_slash_that_a_host_has_appended_is_not_taken_for_the_clients() -> None:
    assert operation_of(scope_of("/v1/messages/", raw_path="/v1/messages")) == "messages.create"
    with pytest.raises(GatewayError):
        operation_of(scope_of("/v1/messages/", raw_path="/v1/messages/"))


def test_few_short_paths_are_remembered_and_no_names_of_models() -> None:
    for number in range(1_000):
        operation_of(scope_of(f"/{number}/v1/messages", f"/{number}"))
        operation_of(scope_of(f"/v1/models/{number}", method="GET"))
        operation_of(scope_of(f"/{'x' * 1_000}{number}/v1/messages", f"/{'x' * 1_000}{number}"))
    assert len(known_operations) <= 64
    assert all(len(path) + len(prefix) <= 256 for path, prefix, _ in known_operations)
    assert "models.retrieve" not in known_operations.values()
