"""What the service refuses in a body: JSON, top-level fields and their types, betas, models, sampling.

Sources: "Messages", "Errors", "Versions"; wordings as observed. Messages and tools are judged in files of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from math import inf
from typing import Any, cast

from bud_asgi.testing.anthropic.checks import (
    Fields,
    a_boolean,
    a_list,
    a_number,
    a_string,
    an_integer,
    an_object,
    no_others,
    one_of,
    required,
    tagged,
)
from bud_asgi.testing.anthropic.message_blocks import judge_cache_marks, judge_messages, judge_system
from bud_asgi.testing.anthropic.models import generation, is_known
from bud_asgi.testing.anthropic.refusals import invalid, refuse
from bud_asgi.testing.anthropic.tools import judge_tool_choice, judge_tools
from bud_asgi.testing.server.received import Received

_COUNTED = "model messages system tools tool_choice thinking output_config cache_control speed"
_CREATED = (
    f"{_COUNTED} max_tokens stream stop_sequences metadata service_tier inference_geo container diagnostics "
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
_COUNTED_BETA_FIELDS = {"context_management", "compaction", "mcp_servers", "billing_policy", "output_format"}
"""Those of them that `count_tokens` takes too ("Token counting")."""
_SAMPLING = ("temperature", "top_p", "top_k")
_ESCAPE = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|u(d[89a-f][0-9a-f]{2})|.)", re.IGNORECASE)
"""An escape in a JSON string: a surrogate pair, a lone surrogate (group 2), or any other."""


def judge_body(received: Received, *, version: str, betas: frozenset[str], known: Collection[str] | None) -> None:
    """Refuse the body if the service would. Raises `Refused`."""
    counting = received.path.endswith(b"/count_tokens")
    judge_fields(decoded(received), version=version, betas=betas, known=known, counting=counting)


def judge_fields(
    fields: Fields, *, version: str, betas: frozenset[str], known: Collection[str] | None, counting: bool
) -> None:
    """Refuse a body's fields if the service would. Raises `Refused`."""
    _judge_names(fields, betas, counting=counting)
    model = _judge_model(fields, known)
    _judge_sampling(fields, version, model)
    if not counting:
        _judge_limits(fields)
    _judge_options(fields, betas)
    judge_system(fields.get("system"), version)
    continued, prefill = _judge_thread(fields.get("thread")), generation(model) < (4, 6)
    judge_messages(required(fields, "messages"), version, betas, prefill=prefill, continued=continued)
    names = judge_tools(fields.get("tools"), betas)
    judge_tool_choice(fields.get("tool_choice"), names)
    _judge_thinking(fields, model)
    judge_cache_marks(fields)


def decoded(received: Received) -> Fields:
    """The body's fields, if it is the JSON that the service takes. Raises `Refused`."""
    if received.header("content-encoding") not in (None, b"identity", b"gzip"):
        details = {"error_code": "request_body_encoding_unsupported"}
        raise refuse(400, "invalid_request_error", "content-encoding: not supported", details)
    doubled: list[tuple[int, str]] = []

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        gathered = dict(pairs)
        if len(gathered) < len(pairs):
            names = [name for name, _ in pairs]
            doubled.append((id(gathered), next(name for name in names if names.count(name) > 1)))
        return gathered

    try:
        written = received.plain_body().decode()
        decoded: object = json.loads(written, object_pairs_hook=gather, parse_constant=_no_constant)
    except RecursionError:
        raise invalid("The request body is not valid JSON: recursion limit exceeded") from None
    except ValueError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from error
    _judge_surrogates(written)
    for where, name in doubled:
        if where == id(decoded):
            raise invalid(f"The request body is not valid JSON: `{name}` occurs more than once")
    if not isinstance(decoded, dict):
        raise invalid("Input should be a valid dictionary")
    return cast("dict[str, Any]", decoded)


def _judge_surrogates(written: str) -> None:
    if r"\ud" not in written and r"\uD" not in written:
        return
    for escape in _ESCAPE.finditer(written):
        if escape[2]:
            place = _place(written, escape.start())
            raise invalid(f"The request body is not valid JSON: no low surrogate in string: {place}")


def _no_constant(name: str) -> object:
    raise ValueError(f"unexpected character: {name}")


def _place(written: str, at: int) -> str:
    line = written.count("\n", 0, at) + 1
    column = at - written.rfind("\n", 0, at)
    return f"line {line} column {column} (char {at})"


def _judge_names(fields: Fields, betas: frozenset[str], *, counting: bool) -> None:
    known: set[str] = set((_COUNTED if counting else _CREATED).split())
    if counting:
        known.update(_SAMPLING)  # refused by version, below
    offered = _BETA_FIELDS.keys() & _COUNTED_BETA_FIELDS if counting else _BETA_FIELDS.keys()
    known.update(name for name in offered if not betas.isdisjoint(_BETA_FIELDS[name]))
    no_others(fields, known)


def _judge_model(fields: Fields, known: Collection[str] | None) -> str:
    model = a_string(required(fields, "model"), "model")
    if not model:
        raise invalid("model: String should have at least 1 character")
    if not is_known(model, known):
        raise refuse(404, "not_found_error", f"model: {model}")
    return model


def _judge_sampling(fields: Fields, version: str, model: str) -> None:
    """In 2026-10-21 presence alone is an error; before, newer models take the default value only ("Versions")."""
    bounds: Mapping[str, float] = {"temperature": 1, "top_p": 1, "top_k": inf}
    for name in _SAMPLING:
        if name not in fields:
            continue
        if version == "2026-10-21":
            raise invalid(f"{name}: Extra inputs are not permitted")
        value = fields[name]
        if value is not None:
            a_number(value, name, least=0, most=bounds[name])
        if generation(model) >= (4, 7) and not (name == "temperature" and value == 1):
            raise invalid(f"`{name}` is deprecated for this model.")


def _judge_thread(given: object) -> bool:
    """Whether the messages go on from ones that the service holds ("Message threads")."""
    if given is None:
        return False
    thread = an_object(given, "thread")
    kind = tagged(thread, ("create", "continue"), "thread")
    if kind == "continue":
        a_string(required(thread, "previous_message_id", "thread.continue."), "thread.continue.previous_message_id")
    return kind == "continue"


def _judge_limits(fields: Fields) -> None:
    limit = an_integer(required(fields, "max_tokens"), "max_tokens", least=0)
    if limit == 0 and fields.get("stream") is True:
        raise invalid("max_tokens: 0 is not supported with `stream`")


def _judge_options(fields: Fields, betas: frozenset[str]) -> None:
    if "stream" in fields:
        a_boolean(fields["stream"], "stream")
    for n, sequence in enumerate(_optional_list(fields, "stop_sequences")):
        a_string(sequence, f"stop_sequences.{n}")
    if "service_tier" in fields:
        one_of(fields["service_tier"], ("auto", "standard_only"), "service_tier")
    if fields.get("speed") is not None:
        one_of(fields["speed"], ("standard", "fast"), "speed")
    if fields.get("inference_geo") is not None:
        a_string(fields["inference_geo"], "inference_geo")
    if fields.get("metadata") is not None:
        metadata = an_object(fields["metadata"], "metadata")
        no_others(metadata, ("user_id",), "metadata.")
        if metadata.get("user_id") is not None and len(a_string(metadata["user_id"], "metadata.user_id")) > 512:
            raise invalid("metadata.user_id: String should have at most 512 characters")
    _judge_output_config(fields.get("output_config"), betas)


def _optional_list(fields: Fields, name: str) -> list[object]:
    return a_list(fields[name], name) if fields.get(name) is not None else []


def _judge_output_config(given: object, betas: frozenset[str]) -> None:
    if given is None:
        return
    config = an_object(given, "output_config")
    budget = ("task_budget",) if "task-budgets-2026-03-13" in betas else ()
    no_others(config, ("effort", "format", *budget), "output_config.")
    if config.get("effort") is not None:
        one_of(config["effort"], ("low", "medium", "high", "xhigh", "max"), "output_config.effort")
    if config.get("format") is not None:
        shape = an_object(config["format"], "output_config.format")
        tagged(shape, ("json_schema",), "output_config.format")
        an_object(required(shape, "schema", "output_config.format."), "output_config.format.schema")


def _judge_thinking(fields: Fields, model: str) -> None:
    if fields.get("thinking") is None:
        return
    thinking = an_object(fields["thinking"], "thinking")
    kind = tagged(thinking, ("adaptive", "enabled", "disabled", "between_tools"), "thinking")
    if kind != "enabled":
        return
    if generation(model) >= (4, 7):
        raise invalid(
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
            '"output_config.effort" to control thinking behavior.'
        )
    at = "thinking.enabled."
    budget = an_integer(required(thinking, "budget_tokens", at), f"{at}budget_tokens", least=1024)
    if "max_tokens" in fields and budget >= fields["max_tokens"]:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
    choice: object = fields.get("tool_choice")
    if isinstance(choice, dict) and cast("dict[str, Any]", choice).get("type") in ("any", "tool"):
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")
