"""The top-level fields: every kind, every bound, every null."""

from __future__ import annotations

import pytest
from support.bodies import body, decode, refusal

from bud_asgi.protocol.fields import FIELDS, integer_of

VALUES: dict[str, bytes] = {
    "string": b'"x"',
    "object": b'{"a":1}',
    "array": b"[{}]",
    "true": b"true",
    "false": b"false",
    "null": b"null",
    "number": b"1",
}
WORDS: dict[str, tuple[set[str], str]] = {
    "model": ({"string"}, "string"),
    "messages": ({"array"}, "list"),
    "max_tokens": ({"number"}, "integer"),
    "stream": ({"true", "false"}, "boolean"),
    "system": ({"string", "array", "null"}, "string or list"),
    "stop_sequences": ({"array", "null"}, "list"),
    "temperature": ({"number", "null"}, "number"),
    "top_p": ({"number", "null"}, "number"),
    "top_k": ({"number", "null"}, "integer"),
    "metadata": ({"object", "null"}, "dictionary"),
    "tools": ({"array", "null"}, "list"),
    "tool_choice": ({"object", "null"}, "dictionary"),
    "thinking": ({"object", "null"}, "dictionary"),
    "output_config": ({"object", "null"}, "dictionary"),
    "output_format": ({"object", "null"}, "dictionary"),
    "cache_control": ({"object", "null"}, "dictionary"),
    "service_tier": ({"string", "null"}, "string"),
    "inference_geo": ({"string", "null"}, "string"),
    "speed": ({"string", "null"}, "string"),
    "container": ({"string", "object", "null"}, "string or dictionary"),
    "diagnostics": ({"object", "null"}, "dictionary"),
    "user_profile_id": ({"string", "null"}, "string"),
    "context_management": ({"object", "null"}, "dictionary"),
    "compaction": ({"object", "null"}, "dictionary"),
    "thread": ({"object", "null"}, "dictionary"),
    "mcp_servers": ({"array", "null"}, "list"),
    "fallbacks": ({"string", "array", "null"}, "string or list"),
    "fallback_credit_token": ({"string", "object", "null"}, "string or dictionary"),
    "billing_policy": ({"object", "null"}, "dictionary"),
}
REQUIRED: dict[str, bytes] = {"model": b'"m"', "messages": b"[{}]", "max_tokens": b"1"}


def with_field(name: str, value: bytes) -> bytes:
    fields = {**REQUIRED, name: value}
    return b"{" + b",".join(b'"%b": %b' % (key.encode(), fields[key]) for key in fields) + b"}"


def test_the_table_lists_every_field() -> None:
    assert WORDS.keys() == FIELDS.keys()


@pytest.mark.parametrize("name", WORDS)
def test_a_field_takes_its_kinds_and_refuses_the_others(name: str) -> None:
    allowed, words = WORDS[name]
    for kind, value in VALUES.items():
        if kind in allowed:
            assert decode(with_field(name, value)).value(name) == value, kind
        else:
            assert refusal(with_field(name, value)) == f"{name}: Input should be a valid {words}", kind


@pytest.mark.parametrize("kind", VALUES)
def test_an_unknown_field_may_hold_anything(kind: str) -> None:
    assert decode(with_field("brand_new", VALUES[kind])).value("brand_new") == VALUES[kind]


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_missing_required_field_is_reported(missing: str) -> None:
    fields = {name: value for name, value in REQUIRED.items() if name != missing}
    sent = b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in fields.items()) + b"}"
    assert refusal(sent) == f"{missing}: Field required"


def test_of_several_missing_fields_the_model_is_reported_first() -> None:
    assert refusal(b"{}") == "model: Field required"
    assert refusal(b'{"model":"m"}') == "messages: Field required"
    assert refusal(b'{"model":"m","messages":5}') == "max_tokens: Field required"


def test_field_names_are_case_sensitive() -> None:
    assert refusal(b'{"Model":"m","messages":[{}],"max_tokens":1}') == "model: Field required"


def test_of_several_errors_the_first_in_the_body_is_reported() -> None:
    assert refusal(body(b',"tools":1,"system":2')) == "tools: Input should be a valid list"
    assert refusal(body(b',"tools":1', max_tokens=b"-1")) == "max_tokens: Input should be greater than or equal to 0"


NUMBERS: dict[str, tuple[str, bytes, str | None]] = {
    "max_tokens may be 0": ("max_tokens", b"0", None),
    "max_tokens may be minus 0": ("max_tokens", b"-0", None),
    "max_tokens may be huge": ("max_tokens", b"9" * 30, None),
    "max_tokens may have an exponent": ("max_tokens", b"1e3", None),
    "max_tokens may have a zero fraction": ("max_tokens", b"1024.0", None),
    "max_tokens below 0": ("max_tokens", b"-1", "Input should be greater than or equal to 0"),
    "max_tokens far below 0": ("max_tokens", b"-1e300", "Input should be greater than or equal to 0"),
    "max_tokens with a fraction": ("max_tokens", b"1.5", "Input should be a valid integer"),
    "max_tokens with a negative exponent": ("max_tokens", b"1e-1", "Input should be a valid integer"),
    "max_tokens beyond the range of floats": ("max_tokens", b"1e400", "Input should be a valid integer"),
    "max_tokens below the range of floats": ("max_tokens", b"-1e400", "Input should be a valid integer"),
    "max_tokens of five thousand digits": ("max_tokens", b"1" * 5000, "Input should be a valid integer"),
    "top_k may be 0": ("top_k", b"0", None),
    "top_k below 0": ("top_k", b"-1", "Input should be greater than or equal to 0"),
    "top_k with a fraction": ("top_k", b"0.5", "Input should be a valid integer"),
    "temperature may be 0": ("temperature", b"0", None),
    "temperature may be 1": ("temperature", b"1", None),
    "temperature may be 1.0": ("temperature", b"1.0", None),
    "temperature may have a fraction": ("temperature", b"0.30000000000000000001", None),
    "temperature over 1": ("temperature", b"1.0000001", "Input should be less than or equal to 1"),
    "temperature below 0": ("temperature", b"-0.0000001", "Input should be greater than or equal to 0"),
    "temperature beyond the range of floats": ("temperature", b"1e400", "Input should be less than or equal to 1"),
    "top_p may be 1": ("top_p", b"1", None),
    "top_p over 1": ("top_p", b"2", "Input should be less than or equal to 1"),
    "top_p below 0": ("top_p", b"-1", "Input should be greater than or equal to 0"),
}


@pytest.mark.parametrize(("name", "text", "reason"), NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_are_checked_against_their_bounds(name: str, text: bytes, reason: str | None) -> None:
    sent = with_field(name, text)
    if reason is None:
        assert decode(sent).value(name) == text
    else:
        assert refusal(sent) == f"{name}: {reason}"


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"0", 0), (b"-0", 0), (b"1024", 1024), (b"1024.0", 1024), (b"1e3", 1000), (b"1E+3", 1000), (b"10e-1", 1)],
)
def test_an_integer_is_read_whatever_its_form(text: bytes, value: int) -> None:
    assert integer_of(text) == value
    assert decode(body(max_tokens=text)).max_tokens == value


def test_an_integer_beyond_the_precision_of_floats_keeps_every_digit() -> None:
    assert decode(body(max_tokens=b"123456789012345678901234567890")).max_tokens == 123456789012345678901234567890


@pytest.mark.parametrize(("text", "stream"), [(b"true", True), (b"false", False)])
def test_stream_is_read(text: bytes, stream: bool) -> None:
    assert decode(body(b',"stream":' + text)).stream is stream
    assert decode(body(b',"stream" \n:\t' + text + b" ")).stream is stream


def test_stream_defaults_to_false() -> None:
    assert decode(body()).stream is False


MODELS: dict[str, tuple[bytes, str]] = {
    "one letter": (b'"m"', "m"),
    "256 letters": (b'"%b"' % (b"a" * 256), "a" * 256),
    "escaped letters": (b'"\\u006d\\/\\n"', "m/\n"),
    "an escaped pair": (b'"\\ud83d\\ude00"', "😀"),
    "letters beyond ASCII": ('"é😀"'.encode(), "é😀"),
    "an escaped quote": (b'"a\\"b"', 'a"b'),
    "85 letters of three bytes": (('"' + "€" * 85 + '"').encode(), "€" * 85),
}


@pytest.mark.parametrize(("text", "model"), MODELS.values(), ids=MODELS.keys())
def test_the_model_is_read(text: bytes, model: str) -> None:
    assert decode(body(model=text)).model == model


LONG_MODELS: dict[str, tuple[bytes, str]] = {
    "256 letters of three bytes": (('"' + "€" * 256 + '"').encode(), "€" * 256),
    "256 escaped letters": (b'"' + b"\\u0061" * 256 + b'"', "a" * 256),
}


@pytest.mark.parametrize(("text", "model"), LONG_MODELS.values(), ids=LONG_MODELS.keys())
def test_the_length_of_a_model_counts_characters(text: bytes, model: str) -> None:
    assert decode(body(model=text)).model == model


@pytest.mark.parametrize("text", [b'"%b"' % (b"a" * 257), ('"' + "€" * 257 + '"').encode(), b'"%b"' % (b"a" * 100_000)])
def test_a_model_of_257_characters_or_more_is_refused(text: bytes) -> None:
    assert refusal(body(model=text)) == "model: String should have at most 256 characters"


def test_an_empty_model_is_refused() -> None:
    assert refusal(body(model=b'""')) == "model: String should have at least 1 character"


@pytest.mark.parametrize("text", [b"[]", b"[ ]", b"[\n\t\r ]"])
def test_messages_without_a_message_are_refused(text: bytes) -> None:
    assert refusal(body(messages=text)) == "messages: at least one message is required"


@pytest.mark.parametrize("text", [b"[1]", b'["{}"]', b"[[{}]]", b"[null]", b"[ true]", b"[\n-1,{}]"])
def test_a_first_message_that_is_not_an_object_is_refused(text: bytes) -> None:
    assert refusal(body(messages=text)) == "messages.0: Input should be a valid dictionary"


@pytest.mark.parametrize("text", [b"[{}]", b"[ \t\n\r{ } ]", b'[{"role":"user"},5]', b"[" + b" " * 10_000 + b"{}]"])
def test_only_the_first_message_is_validated(text: bytes) -> None:
    assert decode(body(messages=text)).value("messages") == text
