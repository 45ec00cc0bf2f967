"""The errors and retries of the official TypeScript SDK are the same as with the service itself."""

from __future__ import annotations

import time
from typing import Any

from clients_gateways import mounted
from clients_node import TypeScript
from support.calls import KEY

from bud_asgi import ApiKey, ApiKeys, Exchange, Limit, Route, hash_api_key
from bud_asgi.testing import ThreadedStandIn, error, hang, reset_before_head, text

STATUSES = {
    400: ("invalid_request_error", "BadRequestError"),
    402: ("billing_error", "PaymentRequiredError"),
    404: ("not_found_error", "NotFoundError"),
    408: ("timeout_error", "RequestTimeoutError"),
    409: ("conflict_error", "ConflictError"),
    412: ("invalid_request_error", "PreconditionFailedError"),
    413: ("request_too_large", "ContentTooLargeError"),
    418: ("invalid_request_error", "APIError"),
    422: ("invalid_request_error", "UnprocessableEntityError"),
    429: ("rate_limit_error", "RateLimitError"),
    431: ("invalid_request_error", "RequestHeaderFieldsTooLargeError"),
    499: ("api_error", "ClientClosedRequestError"),
    500: ("api_error", "InternalServerError"),
    501: ("api_error", "NotImplementedError"),
    503: ("api_error", "ServiceUnavailableError"),
    504: ("timeout_error", "GatewayTimeoutError"),
    529: ("overloaded_error", "OverloadedError"),
    530: ("api_error", "InternalServerError"),
}
"""Error type and SDK class for each status that is passed through. 401 and 403 are not."""


def create(sdk: TypeScript, **params: Any) -> Any:
    return sdk("errors.create", params)


def test_each_status_has_its_class(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(*(error(status, kind, f"message of {status}") for status, (kind, _) in STATUSES.items()))
    thrown = sdk("errors.each", {"count": len(STATUSES)})
    assert {error["status"]: (error["type"], error["class"]) for error in thrown} == STATUSES
    assert [error["message"] for error in thrown] == [f"message of {status}" for status in STATUSES]
    assert len({error["requestId"] for error in thrown}) == len(STATUSES)


def test_each_error_code_has_its_class(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    classes = {(int(status), code): name for status, code, name in sdk("errors.classes")}
    assert len(classes) > 50
    coded = [error(status, "api_error", "message", details={"error_code": code}) for status, code in classes]
    upstream.enqueue(*coded)
    thrown = sdk("errors.each", {"count": len(classes)})
    assert {(error["status"], error["code"]): error["class"] for error in thrown} == classes


def test_an_invalid_key(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    seen = sdk("errors.create", apiKey="sk-bud-wrong", maxRetries=2)["error"]
    assert (seen["class"], seen["type"], seen["retry"]) == ("AuthenticationError", "authentication_error", "false")
    assert upstream.requests == []


def test_a_model_that_the_key_may_not_use(upstream: ThreadedStandIn) -> None:
    narrow = ApiKeys([ApiKey(name="narrow", hash=hash_api_key(KEY), models=("claude-opus-*",))])
    with mounted(upstream, auth=narrow) as base_url:
        seen = TypeScript(baseURL=base_url, apiKey=KEY, maxRetries=2)("errors.create")["error"]
    assert (seen["class"], seen["type"], seen["retry"]) == ("PermissionDeniedError", "permission_error", "false")
    assert upstream.requests == []


def test_a_model_that_no_route_serves(upstream: ThreadedStandIn) -> None:
    with mounted(upstream, routes=[Route("claude-opus-*", to=["anthropic"])]) as base_url:
        seen = TypeScript(baseURL=base_url, apiKey=KEY, maxRetries=2)("errors.create")["error"]
    assert (seen["class"], seen["message"]) == ("NotFoundError", "model: claude-haiku-4-5")


def test_retryable_errors_are_retried(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    soon = {"retry-after-ms": "1"}
    upstream.enqueue(error(529, "overloaded_error", "Overloaded", headers=soon))
    upstream.enqueue(error(429, "rate_limit_error", "Slow down", headers=soon), text("at last"))
    assert create(sdk, options={"maxRetries": 2})["error"] is None
    assert len(upstream.requests) == 3


def test_retries_end(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.always(error(500, "api_error", "no", headers={"retry-after-ms": "1"}))
    assert create(sdk, options={"maxRetries": 2})["error"]["class"] == "InternalServerError"
    assert len(upstream.requests) == 3


def test_x_should_retry_is_obeyed(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error(529, "overloaded_error", "no", headers={"x-should-retry": "false"}))
    assert create(sdk, options={"maxRetries": 2})["error"]["retry"] == "false"
    assert len(upstream.requests) == 1
    retry = {"x-should-retry": "true", "retry-after-ms": "1"}
    upstream.enqueue(error(400, "invalid_request_error", "yes", headers=retry), text("at last"))
    assert create(sdk, options={"maxRetries": 1})["error"] is None
    assert len(upstream.requests) == 3


def test_retry_after_is_waited_for(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(error(429, "rate_limit_error", "Slow down", headers={"retry-after": "1.5"}), text("at last"))
    seen = create(sdk, options={"maxRetries": 1})
    assert seen["error"] is None
    assert seen["seconds"] > 1.4


def test_a_limit_of_the_gateway_is_waited_for(upstream: ThreadedStandIn) -> None:
    with mounted(upstream, limits=[Limit("requests", 1, window=1.0)]) as base_url:
        sdk = TypeScript(baseURL=base_url, apiKey=KEY)
        began = time.monotonic()
        first, second = sdk("errors.each", {"count": 2}, maxRetries=2)
        assert (first, second) == (None, None)
        assert time.monotonic() - began > 0.9
    assert len(upstream.requests) == 2


def test_a_long_limit_of_the_gateway_is_reported_after_one_attempt(upstream: ThreadedStandIn) -> None:
    settled: list[Exchange] = []

    async def on_settled(exchange: Exchange) -> None:
        settled.append(exchange)

    with mounted(upstream, limits=[Limit("requests", 1, window=3600.0)], on_settled=on_settled) as base_url:
        sdk = TypeScript(baseURL=base_url, apiKey=KEY)
        first, second = sdk("errors.each", {"count": 2}, maxRetries=2)
    assert first is None
    assert (second["class"], second["type"], second["retry"]) == ("RateLimitError", "rate_limit_error", "false")
    assert second["message"].startswith("This request would exceed your rate limit of 1 request per hour.")
    assert len([exchange for exchange in settled if exchange.refused_by]) == 1


def test_a_client_timeout_ends_the_upstream_request(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(hang(), hang(), text("at last"))
    seen = create(sdk, options={"maxRetries": 1, "timeout": 300})
    assert (seen["error"]["class"], seen["error"]["status"]) == ("APIConnectionTimeoutError", None)
    assert {upstream.wait_aborted(timeout=15.0).number for _ in range(2)} == {1, 2}
    assert create(sdk, options={"timeout": 5000})["error"] is None


def test_a_broken_upstream_connection_is_a_server_error_and_retried(sdk: TypeScript, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(reset_before_head(), text("at last"))
    seen = create(sdk, options={"maxRetries": 1})
    assert seen["error"] is None
    assert len(upstream.requests) == 2
