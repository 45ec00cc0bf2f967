"""Checks of a body: JSON, top-level fields and their types, beta fields, model, sampling.

Sources: "Messages", "Errors", "Versions"; wordings as observed. Messages and tools have files of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from math import inf
from typing import Any, cast

from bud_asgi.testing.anthropic.check_messages import check_cache_breakpoints, check_messages, check_system
from bud_asgi.testing.anthropic.check_thinking import check_signatures, check_thinking
from bud_asgi.testing.anthropic.check_tools import check_tool_choice, check_tools
from bud_asgi.testing.anthropic.check_values import (
    Fields,
    expect_boolean,
    expect_integer,
    expect_list,
    expect_number,
    expect_object,
    expect_one_of,
    expect_string,
    expect_type,
    forbid_unknown,
    require,
    unknown_field,
)
from bud_asgi.testing.anthropic.errors import Rejected, invalid_request
from bud_asgi.testing.anthropic.models import generation, is_known
from bud_asgi.testing.server.received import Received

_COUNT_FIELDS = "model messages system tools tool_choice thinking output_config cache_control speed"
_MESSAGE_FIELDS = (
    f"{_COUNT_FIELDS} max_tokens stream stop_sequences metadata service_tier inference_geo container diagnostics "
    "user_profile_id temperature top_p top_k"
)
_BETA_FIELDS = {
    "context_management": {"context-management-2025-06-27", "compact-2026-01-12"},
    "compaction": {"compact-2026-09-04"},
    "thread": {"message-threads-2026-08-12"},
    "mcp_servers": {"mcp-client-2025-04-04", "mcp-client-2025-11-20", "mcp-client-2026-09-15"},
    "fallbacks": {"server-side-fallback-2026-06-01", "server-side-fallback-2026-07-01"},
    "fallback_credit_token": {"fallback-credit-2026-06-01", "fallback-credit-2026-07-01"},
    "billing_policy": {"user-profiles-billing-2026-10-01"},
    "output_format": {"structured-outputs-2025-11-13"},
}
"""Fields with the beta flags that enable them."""
_COUNT_BETA_FIELDS = {"context_management", "compaction", "mcp_servers", "billing_policy", "output_format"}
"""Those that `count_tokens` accepts too ("Token counting")."""
_SAMPLING = ("temperature", "top_p", "top_k")
_ESCAPE = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|u(d[89a-f][0-9a-f]{2})|.)", re.IGNORECASE)
"""An escape in a JSON string: a surrogate pair, a lone surrogate (group 2), or any other."""


def check_body(
    received: Received,
    *,
    version: str,
    betas: frozenset[str],
    known: Collection[str] | None,
    signer: str | None = None,
) -> None:
    """Check the body of a request. Raises `Rejected`."""
    counting = received.path.endswith(b"/count_tokens")
    fields = decode_body(received)
    check_fields(fields, version=version, betas=betas, known=known, counting=counting, signer=signer)


def check_fields(
    fields: Fields,
    *,
    version: str,
    betas: frozenset[str],
    known: Collection[str] | None,
    counting: bool,
    signer: str | None = None,
) -> None:
    """Check the fields of a body; `counting`: it is one for `count_tokens`. Raises `Rejected`.

    `signer` must have signed the thinking blocks of the conversation; `None`: they are not checked.
    """
    _check_names(fields, betas, counting=counting)
    model = _check_model(fields, known)
    _check_sampling(fields, version, model)
    if not counting:
        _check_limits(fields)
    _check_options(fields, betas)
    check_system(fields.get("system"), version)
    continued, prefill = _check_thread(fields.get("thread")), generation(model) < (4, 6)
    check_messages(require(fields, "messages"), version, betas, prefill=prefill, continued=continued)
    names = check_tools(fields.get("tools"), betas)
    check_tool_choice(fields.get("tool_choice"), names)
    check_thinking(fields, model)
    check_cache_breakpoints(fields)
    if signer is not None:
        check_signatures(fields["messages"], signer)


def decode_body(received: Received) -> Fields:
    """Return the fields of the body, which must be JSON as the service accepts it. Raises `Rejected`."""
    if received.header("content-encoding") not in (None, b"identity", b"gzip"):
        details = {"error_code": "request_body_encoding_unsupported"}
        raise Rejected(400, "invalid_request_error", "content-encoding: not supported", details)
    duplicates: list[tuple[int, str]] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            names = [name for name, _ in pairs]
            duplicates.append((id(built), next(name for name in names if names.count(name) > 1)))
        return built

    try:
        text = received.plain_body().decode()
        decoded: object = json.loads(text, object_pairs_hook=build, parse_constant=_reject_constant)
    except RecursionError:
        raise invalid_request("The request body is not valid JSON: recursion limit exceeded") from None
    except ValueError as error:
        raise invalid_request(f"The request body is not valid JSON: {error}") from error
    _check_surrogates(text)
    for identity, name in duplicates:
        if identity == id(decoded):
            raise invalid_request(f"The request body is not valid JSON: `{name}` occurs more than once")
    if not isinstance(decoded, dict):
        raise invalid_request("Input should be a valid dictionary")
    return cast("dict[str, Any]", decoded)


def _check_surrogates(text: str) -> None:
    if r"\ud" not in text and r"\uD" not in text:
        return
    for escape in _ESCAPE.finditer(text):
        if escape[2]:
            position = _position(text, escape.start())
            raise invalid_request(f"The request body is not valid JSON: no low surrogate in string: {position}")


def _reject_constant(name: str) -> object:
    raise ValueError(f"unexpected character: {name}")


def _position(text: str, offset: int) -> str:
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return f"line {line} column {column} (char {offset})"


def _check_names(fields: Fields, betas: frozenset[str], *, counting: bool) -> None:
    known: set[str] = set((_COUNT_FIELDS if counting else _MESSAGE_FIELDS).split())
    if counting:
        known.update(_SAMPLING)  # `_check_sampling` decides by version
    offered = _BETA_FIELDS.keys() & _COUNT_BETA_FIELDS if counting else _BETA_FIELDS.keys()
    known.update(name for name in offered if not betas.isdisjoint(_BETA_FIELDS[name]))
    forbid_unknown(fields, known)


def _check_model(fields: Fields, known: Collection[str] | None) -> str:
    model = expect_string(require(fields, "model"), "model")
    if not model:
        raise invalid_request("model: String should have at least 1 character")
    if not is_known(model, known):
        raise Rejected(404, "not_found_error", f"model: {model}")
    return model


def _check_sampling(fields: Fields, version: str, model: str) -> None:
    """Version 2026-10-21 has no sampling fields; before it, newer models accept only the default ("Versions")."""
    bounds: Mapping[str, float] = {"temperature": 1, "top_p": 1, "top_k": inf}
    for name in _SAMPLING:
        if name not in fields:
            continue
        if version == "2026-10-21":
            raise unknown_field(name)
        value = fields[name]
        if value is not None:
            expect_number(value, name, minimum=0, maximum=bounds[name])
        if generation(model) >= (4, 7) and not (name == "temperature" and value == 1):
            raise invalid_request(f"`{name}` is deprecated for this model.")


def _check_thread(given: object) -> bool:
    """Check `thread`; true if the messages continue a thread that the service has stored ("Message threads")."""
    if given is None:
        return False
    thread = expect_object(given, "thread")
    kind = expect_type(thread, ("create", "continue"), "thread")
    if kind == "continue":
        expect_string(require(thread, "previous_message_id", "thread.continue."), "thread.continue.previous_message_id")
    return kind == "continue"


def _check_limits(fields: Fields) -> None:
    limit = expect_integer(require(fields, "max_tokens"), "max_tokens", minimum=0)
    if limit == 0 and fields.get("stream") is True:
        raise invalid_request("max_tokens: 0 is not supported with `stream`")


def _check_options(fields: Fields, betas: frozenset[str]) -> None:
    if "stream" in fields:
        expect_boolean(fields["stream"], "stream")
    for n, sequence in enumerate(_optional_list(fields, "stop_sequences")):
        expect_string(sequence, f"stop_sequences.{n}")
    if "service_tier" in fields:
        expect_one_of(fields["service_tier"], ("auto", "standard_only"), "service_tier")
    if fields.get("speed") is not None:
        expect_one_of(fields["speed"], ("standard", "fast"), "speed")
    if fields.get("inference_geo") is not None:
        expect_string(fields["inference_geo"], "inference_geo")
    if fields.get("metadata") is not None:
        metadata = expect_object(fields["metadata"], "metadata")
        forbid_unknown(metadata, ("user_id",), "metadata.")
        if metadata.get("user_id") is not None and len(expect_string(metadata["user_id"], "metadata.user_id")) > 512:
            raise invalid_request("metadata.user_id: String should have at most 512 characters")
    _check_output_config(fields.get("output_config"), betas)


def _optional_list(fields: Fields, name: str) -> list[object]:
    return expect_list(fields[name], name) if fields.get(name) is not None else []


def _check_output_config(given: object, betas: frozenset[str]) -> None:
    if given is None:
        return
    config = expect_object(given, "output_config")
    budget = ("task_budget",) if "task-budgets-2026-03-13" in betas else ()
    forbid_unknown(config, ("effort", "format", *budget), "output_config.")
    if config.get("effort") is not None:
        expect_one_of(config["effort"], ("low", "medium", "high", "xhigh", "max"), "output_config.effort")
    if config.get("format") is not None:
        shape = expect_object(config["format"], "output_config.format")
        expect_type(shape, ("json_schema",), "output_config.format")
        expect_object(require(shape, "schema", "output_config.format."), "output_config.format.schema")
