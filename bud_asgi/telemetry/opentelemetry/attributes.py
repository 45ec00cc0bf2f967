"""The attributes of spans and metrics: those of OpenTelemetry's conventions, and our own under `bud.`.

The names are those of the semantic conventions 1.44, the last version with those for generative AI, and of the Python
package `opentelemetry-semantic-conventions`, which a test compares them with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.types import Scope

from bud_asgi.attempt import Attempt
from bud_asgi.exchange import Exchange
from bud_asgi.limit import limit_words
from bud_asgi.printable import printable
from bud_asgi.protocol.answer import Answer
from bud_asgi.protocol.errors import known_type
from bud_asgi.protocol.operations import Operation
from bud_asgi.protocol.usage import Usage
from bud_asgi.telemetry.opentelemetry.content import Content

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

Value = str | bool | int | float | Sequence[str]
Attributes = dict[str, Value]

ERROR_TYPE = "error.type"
HTTP_REQUEST_METHOD = "http.request.method"
HTTP_REQUEST_METHOD_ORIGINAL = "http.request.method_original"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"
HTTP_ROUTE = "http.route"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_CREATION = "gen_ai.usage.cache_creation.input_tokens"
USAGE_REASONING = "gen_ai.usage.reasoning.output_tokens"

BUD_ATTEMPT_END = "bud.attempt.end"
BUD_ATTEMPTS = "bud.attempts"
BUD_ESTIMATED = "bud.usage.estimated"
BUD_GUARDRAIL = "bud.guardrail"
BUD_MODEL = "bud.model"
BUD_OPERATION = "bud.operation"
BUD_OUTCOME = "bud.outcome"
BUD_PRINCIPAL = "bud.principal.id"
BUD_REFUSED_BY = "bud.refused_by"
BUD_REQUEST_ID = "bud.request_id"
BUD_REVISION = "bud.revision"
BUD_ROUTE = "bud.route"
BUD_TARGET = "bud.target"
BUD_TEAM = "bud.principal.team"
BUD_UPSTREAM_REQUEST_ID = "bud.upstream_request_id"

OTHER = "_OTHER"
"""The conventions' word for a value outside a list."""

_MAX_TEXT = 256
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_ROUTES: Mapping[Operation, str] = {
    "messages.create": "/v1/messages",
    "messages.count_tokens": "/v1/messages/count_tokens",
    "models.list": "/v1/models",
    "models.retrieve": "/v1/models/{model_id}",
}
_NO_ERRORS = frozenset({"answered", "client_gone", "cancelled"})
"""The ends of attempts that were not a fault of the upstream."""


def server_name(exchange: Exchange) -> str:
    """The name of the server span: method and route."""
    if exchange.operation is not None:
        return f"{exchange.method} {_ROUTES[exchange.operation]}"
    method = method_of(exchange)
    return "HTTP" if method == OTHER else method


def server_attributes(exchange: Exchange, scope: Scope) -> Attributes:
    """What the conventions require of an HTTP server span, at its start. The route is without a mount's prefix."""
    found: Attributes = {
        HTTP_REQUEST_METHOD: method_of(exchange),
        URL_SCHEME: str(scope.get("scheme", "http")),
        URL_PATH: text(exchange.path.partition("?")[0]),  # `%3F` begins a query that was encoded by mistake
    }
    if exchange.operation is not None:
        found[HTTP_ROUTE] = _ROUTES[exchange.operation]
    elif found[HTTP_REQUEST_METHOD] == OTHER:
        found[HTTP_REQUEST_METHOD_ORIGINAL] = text(exchange.method)
    return found


def method_of(exchange: Exchange) -> str:
    """The method of a request, if it is one of HTTP's."""
    return exchange.method if exchange.method in _METHODS else OTHER


def request_attributes(exchange: Exchange) -> Attributes:
    """What is known of a request when it has ended, without who sent it."""
    found: Attributes = {
        BUD_REQUEST_ID: exchange.request_id,
        BUD_OUTCOME: exchange.outcome or OTHER,
        BUD_REVISION: exchange.revision,
        BUD_ATTEMPTS: len(exchange.attempts),
    }
    if exchange.status is not None:
        found[HTTP_RESPONSE_STATUS_CODE] = exchange.status
    if exchange.read_request is not None:
        found[BUD_MODEL] = text(exchange.read_request.model)
    if exchange.route is not None:
        found[BUD_ROUTE] = route_of(exchange)
    if exchange.attempts:
        found[BUD_TARGET] = exchange.attempts[-1].target.name
    if exchange.refused_by is not None:
        found[BUD_REFUSED_BY] = limit_words(exchange.refused_by)
    if (error := error_of_request(exchange)) is not None:
        found[ERROR_TYPE] = error
    return found


def caller_attributes(exchange: Exchange) -> Attributes:
    """Who sent a request."""
    found: Attributes = {}
    if exchange.principal is not None:
        found[BUD_PRINCIPAL] = text(exchange.principal.id)
        if exchange.principal.team is not None:
            found[BUD_TEAM] = text(exchange.principal.team)
    return found


def error_of_request(exchange: Exchange) -> str | None:
    """The type of the error of a request that failed on the server's side; `None` for a refusal that is the client's.

    Both the statuses from 500 and the streams that broke off count.
    """
    failed = (exchange.status or 0) >= 500 or exchange.outcome in {"upstream_failed", "cancelled"}
    return known_type(exchange.error_type, exchange.outcome or OTHER) if failed else None


def error_of_attempt(attempt: Attempt) -> str | None:
    """The type of the error that an upstream answered with, or else how the attempt ended; `None` for no error."""
    end = attempt.end or OTHER
    return None if end in _NO_ERRORS else known_type(attempt.error_type, end)


def attempt_attributes(exchange: Exchange, attempt: Attempt) -> Attributes:
    """What is known of an attempt when it starts. The model is the one that the upstream is asked for."""
    request = exchange.decoded_request
    found: Attributes = {
        OPERATION_NAME: "count_tokens" if request.counting else "chat",
        PROVIDER_NAME: attempt.service,
        REQUEST_MODEL: attempt.target.model or text(request.model),
        BUD_TARGET: attempt.target.name,
    }
    if request.max_tokens is not None:
        found[REQUEST_MAX_TOKENS] = request.max_tokens
    if request.stream:
        found[REQUEST_STREAM] = True
    return found


def reply_attributes(exchange: Exchange, attempt: Attempt, answer: Answer) -> Attributes:
    """What is known of an attempt when it has ended."""
    found: Attributes = {BUD_ATTEMPT_END: attempt.end or OTHER}
    if attempt.server is not None:
        found[SERVER_ADDRESS], found[SERVER_PORT] = attempt.server.host, attempt.server.port
    if attempt.status is not None:
        found[HTTP_RESPONSE_STATUS_CODE] = attempt.status
    if attempt.upstream_request_id is not None:
        found[BUD_UPSTREAM_REQUEST_ID] = attempt.upstream_request_id
    if attempt.guardrail is not None:
        found[BUD_GUARDRAIL] = text(attempt.guardrail)
    if attempt.first_event is not None and exchange.decoded_request.stream:
        found[RESPONSE_TIME_TO_FIRST_CHUNK] = attempt.first_event - attempt.started
    if (error := error_of_attempt(attempt)) is not None:
        found[ERROR_TYPE] = error
    if answer.id is not None:
        found[RESPONSE_ID] = text(answer.id)
    if answer.model is not None:
        found[RESPONSE_MODEL] = text(answer.model)
    if answer.stop_reason is not None:
        found[RESPONSE_FINISH_REASONS] = (text(answer.stop_reason),)
    if attempt.usage is not None:
        _add_usage(found, attempt.usage)
    return found


def _add_usage(found: Attributes, usage: Usage) -> None:
    found[USAGE_INPUT_TOKENS] = input_tokens(usage)
    found[USAGE_OUTPUT_TOKENS] = usage.output_tokens or 0
    if usage.cache_read_input_tokens is not None:
        found[USAGE_CACHE_READ] = usage.cache_read_input_tokens
    if usage.cache_creation_input_tokens is not None:
        found[USAGE_CACHE_CREATION] = usage.cache_creation_input_tokens
    if (details := usage.output_tokens_details) is not None and details.thinking_tokens:
        found[USAGE_REASONING] = details.thinking_tokens
    if usage.estimated:
        found[BUD_ESTIMATED] = True


def input_tokens(usage: Usage) -> int:
    """All input tokens: in the conventions those of a cache are included, in the Messages API they are not."""
    return (usage.input_tokens or 0) + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)


def content_attributes(content: Content) -> Attributes:
    """The content of an attempt: as JSON, because attributes of spans cannot be structured everywhere."""
    lists = {
        INPUT_MESSAGES: content.input_messages,
        OUTPUT_MESSAGES: content.output_messages,
        SYSTEM_INSTRUCTIONS: content.system_instructions,
        TOOL_DEFINITIONS: content.tool_definitions,
    }
    return {name: msgspec.json.encode(value).decode() for name, value in lists.items() if value}


def route_of(exchange: Exchange) -> str:
    """The route of a request, as its table names it: a pattern, not what the client asked for."""
    pattern: object = getattr(exchange.route, "pattern", None)
    return pattern if isinstance(pattern, str) else OTHER


def text(value: object) -> str:
    """A text from outside, printable and of limited length."""
    shown = str(value)
    return shown if len(shown) <= _MAX_TEXT and shown.isprintable() else printable(shown[:_MAX_TEXT])
