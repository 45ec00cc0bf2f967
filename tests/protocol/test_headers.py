"""The headers that are forwarded to the upstream and to the client."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import examples

from bud_asgi.protocol.errors import InvalidRequest
from bud_asgi.protocol.headers import (
    MAX_HEAD,
    MAX_HEADER_LINES,
    check_request_headers,
    forwarded_headers,
    known_names,
    media_type,
    merge_headers,
    names_of,
    read_headers,
    relayed_error_headers,
    relayed_headers,
    reply_fields,
    request_id_of,
)

Lines = list[tuple[bytes, bytes]]
VERSION = (b"anthropic-version", b"2023-06-01")

MERGED: dict[str, tuple[Lines, dict[bytes, bytes]]] = {
    "none": ([], {}),
    "names in lower case": ([(b"X-Api-Key", b"A")], {b"x-api-key": b"A"}),
    "lines of one field": ([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], {b"a": b"1, 3", b"b": b"2"}),
    "names that differ in case": ([(b"A", b"1"), (b"a", b"2")], {b"a": b"1, 2"}),
    "beta lines are joined by a bare comma": (
        [(b"anthropic-beta", b"a,b"), (b"Anthropic-Beta", b"c"), (b"ANTHROPIC-BETA", b"d, e")],
        {b"anthropic-beta": b"a,b,c,d, e"},
    ),
    "an empty value is a value": ([(b"a", b""), (b"a", b"1")], {b"a": b", 1"}),
    "other bytes are unchanged": ([(b"a", b"\xff \t\xff")], {b"a": b"\xff \t\xff"}),
    "whitespace around a value is removed": (
        [(b"a", b"\t 1 \t"), (b"B", b"2 "), (b"b", b" 3")],
        {b"a": b"1", b"b": b"2, 3"},
    ),
    "a trailing tab of a single line": ([(b"a", b"1\t")], {b"a": b"1"}),
}


@pytest.mark.parametrize(("lines", "merged"), MERGED.values(), ids=MERGED.keys())
def test_lines_are_merged_into_fields(lines: Lines, merged: dict[bytes, bytes]) -> None:
    assert merge_headers(lines) == merged
    assert read_headers(lines)[0] == merged


def merged_naively(lines: Lines) -> dict[bytes, bytes]:
    """Headers merged one line after the other: the reference."""
    merged: dict[bytes, bytes] = {}
    for name, value in lines:
        lower, stripped = name.lower(), value.strip(b" \t")
        comma = b"," if lower == b"anthropic-beta" else b", "
        merged[lower] = merged[lower] + comma + stripped if lower in merged else stripped
    return merged


_line_names = st.sampled_from([b"a", b"A", b"anthropic-beta", b"Anthropic-Beta", b"x-1", b"1", b""])


@pytest.mark.torture
@examples(40)
@given(lines=st.lists(st.tuples(_line_names, st.text("a, \t\0", max_size=4).map(str.encode)), max_size=6))
def test_lines_are_merged_as_one_after_the_other(lines: Lines) -> None:
    for merged in (merge_headers(lines), read_headers(lines)[0]):
        assert merged == merged_naively(lines)
        assert list(merged) == list(merged_naively(lines))


@pytest.mark.parametrize("name", [b"a", b"anthropic-beta"])
def test_a_hundred_thousand_lines_are_merged_within_a_second(name: bytes) -> None:
    """Generous: it takes some 20 ms. Appending line to line copies the value each time, which takes seconds."""
    lines = [(name, b"b")] * 100_000
    began = time.process_time()
    merged = merge_headers(lines)
    assert time.process_time() - began < 1.0
    assert merged[name].count(b"b") == 100_000


def test_of_too_many_lines_none_is_read() -> None:
    lines = [VERSION, *[(b"x-%d" % number, b"") for number in range(MAX_HEADER_LINES)]]
    assert len(read_headers(lines[1:])[0]) == MAX_HEADER_LINES
    headers, names, size = read_headers(lines)
    assert headers == {}
    assert names == names_of(())
    assert size > MAX_HEAD


@given(lines=st.lists(st.tuples(_line_names, st.text("a, \t", max_size=4).map(str.encode)), min_size=1, max_size=6))
@examples(50, 2_000)
def test_the_size_is_that_of_the_merged_lines(lines: Lines) -> None:
    headers, names, size = read_headers(lines)
    assert names == names_of(headers)
    assert size == sum(len(name) + len(value) for name, value in headers.items()) + 4 * len(lines)


_kinds = [VERSION[0], b"anthropic-user-profile-id", b"anthropic_workspace_id", b"traceparent", b"tracestate"]
_kinds += [
    b"x-amzn-bedrock-service-tier",
    b"x-api-key",
    b"accept",
    b"a\0anthropic-beta",
    b"anthropic",
    b"content-encoding",
    b"",
]


@given(names=st.lists(st.sampled_from(_kinds), unique=True))
@examples(50, 2_000)
def test_what_names_show_does_not_depend_on_what_is_remembered(names: list[bytes]) -> None:
    for _ in range(2):
        known = names_of(names)
        assert known.forwarded == tuple(name for name in names if name.startswith(b"anthropic-"))
        assert known.account == tuple(name for name in names if name in {_kinds[1], _kinds[2], _kinds[5]})
        assert set(known.checked) == {*known.forwarded, *names} & {b"anthropic-user-profile-id", b"content-encoding"}
    known_names.clear()


def test_the_names_that_are_remembered_are_bounded_in_number_and_size() -> None:
    for number in range(2000):
        read_headers([(b"x-%d-%d" % (number, line), b"secret") for line in range(number % MAX_HEADER_LINES)])
        read_headers([(b"x-%d" % number + b"x" * 64_000, b"secret")])
    assert len(known_names) <= 256
    assert all(sum(map(len, names)) + 64 * len(names) <= 4096 for names in known_names)
    assert "secret" not in repr(known_names)


def test_headers_that_were_left_out_are_not_forwarded() -> None:
    _, names, _ = read_headers([VERSION, (b"anthropic-workspace-id", b"w")])
    assert forwarded_headers(dict([VERSION]), names) == [VERSION]


def check(lines: Lines) -> None:
    headers, names, _ = read_headers(lines)
    check_request_headers(headers, names)


@pytest.mark.parametrize("version", [b"2023-06-01", b"2026-10-21", b"2099-01-01-preview", b"v", b"x" * 64])
def test_any_one_version_passes(version: bytes) -> None:
    check([(b"anthropic-version", version)])


REFUSED: dict[str, tuple[Lines, str]] = {
    "no version": ([], "anthropic-version: header is required"),
    "an empty version": ([(b"anthropic-version", b"")], "anthropic-version: header is required"),
    "two versions": (
        [VERSION, VERSION],
        'anthropic-version: "2023-06-01, 2023-06-01" is not a valid version',
    ),
    "two versions in one line": (
        [(b"anthropic-version", b"2023-06-01,2026-10-21")],
        'anthropic-version: "2023-06-01,2026-10-21" is not a valid version',
    ),
    "a second version in upper case": (
        [VERSION, (b"Anthropic-Version", b"x")],
        'anthropic-version: "2023-06-01, x" is not a valid version',
    ),
    "a version with a space": (
        [(b"anthropic-version", b"2023 06")],
        'anthropic-version: "2023 06" is not a valid version',
    ),
    "a version of spaces": ([(b"anthropic-version", b" ")], "anthropic-version: header is required"),
    "a version with a newline": (
        [(b"anthropic-version", b"2023-06-01\n")],
        'anthropic-version: "2023-06-01\n" is not a valid version',
    ),
    "a version beyond ASCII": ([(b"anthropic-version", b"\xff")], 'anthropic-version: "\\xff" is not a valid version'),
    "a version of 65 letters": (
        [(b"anthropic-version", b"x" * 65)],
        f'anthropic-version: "{"x" * 65}" is not a valid version',
    ),
    "a version of 100 kB is cut short": (
        [(b"anthropic-version", b"x" * 100_000)],
        f'anthropic-version: "{"x" * 100}" is not a valid version',
    ),
    "a beta beyond ASCII": (
        [VERSION, (b"anthropic-beta", "é".encode())],
        "anthropic-beta: header must be printable ASCII",
    ),
    "a beta with a control character": (
        [VERSION, (b"anthropic-beta", b"a\x00")],
        "anthropic-beta: header must be printable ASCII",
    ),
    "a beta with a newline": (
        [VERSION, (b"anthropic-beta", b"a\r\nx-api-key: b")],
        "anthropic-beta: header must be printable ASCII",
    ),
    "an unknown anthropic header": (
        [VERSION, (b"Anthropic-New", b"\x7f")],
        "anthropic-new: header must be printable ASCII",
    ),
    "a compressed body": (
        [VERSION, (b"content-encoding", b"gzip")],
        "content-encoding: compressed request bodies are not supported",
    ),
    "a body compressed twice": (
        [VERSION, (b"content-encoding", b"identity"), (b"content-encoding", b"br")],
        "content-encoding: compressed request bodies are not supported",
    ),
    "the version before the encoding": ([(b"content-encoding", b"gzip")], "anthropic-version: header is required"),
}


@pytest.mark.parametrize(("lines", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_request_headers_are_refused(lines: Lines, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(lines)
    assert str(refused.value) == message


def test_a_compressed_body_is_refused_with_its_code() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check([VERSION, (b"content-encoding", b"gzip")])
    assert refused.value.details == {"error_code": "request_body_encoding_unsupported"}


@pytest.mark.parametrize("encoding", [b"identity", b"Identity", b" identity ", b""])
def test_the_identity_encoding_is_accepted(encoding: bytes) -> None:
    check([VERSION, (b"content-encoding", encoding)])


def test_headers_that_are_not_forwarded_may_contain_any_bytes() -> None:
    check([VERSION, (b"x-name", b"\xff"), (b"user-agent", "é".encode())])


NOT_FORWARDED = [
    b"authorization",
    b"x-api-key",
    b"api-key",
    b"proxy-authorization",
    b"cookie",
    b"host",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"accept",
    b"accept-encoding",
    b"expect",
    b"user-agent",
    b"x-stainless-lang",
    b"x-stainless-timeout",
    b"x-claude-code-session-id",
    b"x-forwarded-for",
    b"forwarded",
    b"traceparent",
    b"origin",
    b"referer",
    b"idempotency-key",
    b"x-goog-api-key",
    b"x-amz-security-token",
    b"anthropic",
    b"xanthropic-beta",
]


@pytest.mark.parametrize("name", NOT_FORWARDED)
def test_a_header_outside_the_allow_list_is_not_forwarded(name: bytes) -> None:
    assert forwarded_headers(merge_headers([(name.title(), b"1"), VERSION])) == [VERSION]


def test_anthropic_headers_are_forwarded_unchanged() -> None:
    lines = [VERSION, (b"anthropic-beta", b"a, b"), (b"anthropic-dangerous-direct-browser-access", b"true")]
    lines += [(b"anthropic-brand-new", b"x\ty  z")]
    assert forwarded_headers(merge_headers(lines)) == lines


def test_beta_lines_are_forwarded_as_one() -> None:
    lines = [(b"Anthropic-Beta", b"a"), (b"anthropic-beta", b"b,c")]
    assert forwarded_headers(merge_headers(lines)) == [(b"anthropic-beta", b"a,b,c")]


_anyname = st.sampled_from([*NOT_FORWARDED, b"anthropic-beta", b"anthropic-x", b"set-cookie"]) | st.binary(
    min_size=1, max_size=8
)


@pytest.mark.torture
@examples()
@given(lines=st.lists(st.tuples(_anyname, st.binary(max_size=5))))
def test_only_anthropic_headers_are_forwarded(lines: Lines) -> None:
    forwarded = forwarded_headers(merge_headers(lines))
    names = [name for name, _ in forwarded]
    assert all(name.startswith(b"anthropic-") and name == name.lower() for name in names)
    assert len(set(names)) == len(names)


REPLY: Lines = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"request-id", b"req_up"),
    (b"retry-after", b"3"),
    (b"retry-after-ms", b"2500"),
    (b"x-should-retry", b"true"),
    (b"set-cookie", b"a=b"),
    (b"connection", b"close"),
    (b"keep-alive", b"timeout=5"),
    (b"transfer-encoding", b"chunked"),
    (b"content-length", b"10"),
    (b"content-encoding", b"gzip"),
    (b"trailer", b"x"),
    (b"upgrade", b"h2c"),
    (b"server", b"x"),
    (b"date", b"x"),
    (b"location", b"/x"),
    (b"www-authenticate", b"Bearer"),
    (b"anthropic-organization-id", b"org"),
    (b"anthropic-workspace-id", b"wrkspc"),
    (b"anthropic-ratelimit-requests-remaining", b"1"),
    (b"anthropic-ratelimit-unified-status", b"allowed"),
    (b"cf-ray", b"x"),
    (b"x-amzn-requestid", b"x"),
]


def test_of_a_response_only_the_content_type_and_the_id_reach_the_client() -> None:
    assert relayed_headers(reply_fields(REPLY), "req_up") == [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"upstream-request-id", b"req_up"),
    ]


def test_of_an_error_the_retry_headers_and_the_id_reach_the_client() -> None:
    assert relayed_error_headers(reply_fields(REPLY), "req_up") == [
        (b"retry-after", b"3"),
        (b"retry-after-ms", b"2500"),
        (b"x-should-retry", b"true"),
        (b"upstream-request-id", b"req_up"),
    ]


@pytest.mark.parametrize("lines", [[], [(b"request-id", b"")], [(b"x-request-id", b"a")]])
def test_without_a_request_id_no_upstream_id_is_added(lines: Lines) -> None:
    assert request_id_of(reply_fields(lines)) == ""
    assert relayed_error_headers(reply_fields(lines), None) == []


@pytest.mark.parametrize(
    ("lines", "request_id"),
    [
        ([(b"request-id", b"req_A.b-1")], "req_A.b-1"),
        ([(b"x-amzn-requestid", b"a-b"), (b"request-id", b"req")], "req"),
        ([(b"x-amzn-requestid", b"a-b")], "a-b"),
        ([(b"x-amzn-requestid", b"a-b"), (b"request-id", b"two words")], "a-b"),
        ([(b"request-id", b"x" * 128)], "x" * 128),
        ([(b"request-id", b"x" * 129)], ""),
        ([(b"request-id", b"a\xe9")], ""),
        ([(b"request-id", b"a/b")], ""),
        ([(b"request-id", b"Bearer key")], ""),
    ],
)
def test_only_what_looks_like_a_request_id_is_one(lines: Lines, request_id: str) -> None:
    assert request_id_of(reply_fields(lines)) == request_id


RETRY: list[tuple[bytes, bytes, bool]] = [
    (b"retry-after", b"34", True),
    (b"retry-after", b"34.5", True),
    (b"retry-after", b"Sun, 06 Nov 1994 08:49:37 GMT", True),
    (b"retry-after", b"soon", False),
    (b"retry-after", b"-1", False),
    (b"retry-after", b"1234567890123456", False),
    (b"retry-after", b"sk-ant-something-like-a-key", False),
    (b"retry-after", b"34\xb2", False),
    (b"retry-after-ms", b"1500", True),
    (b"retry-after-ms", b"1500.25", True),
    (b"retry-after-ms", b"Sun, 06 Nov 1994 08:49:37 GMT", False),
    (b"x-should-retry", b"true", True),
    (b"x-should-retry", b"false", True),
    (b"x-should-retry", b"True", False),
    (b"x-should-retry", b"", False),
]


@pytest.mark.parametrize(("name", "value", "relayed"), RETRY)
def test_a_retry_header_is_relayed_if_it_has_the_form_of_one(name: bytes, value: bytes, relayed: bool) -> None:
    assert relayed_error_headers({name: value}, None) == ([(name, value)] if relayed else [])


@pytest.mark.parametrize(
    ("value", "relayed"),
    [
        (b"text/event-stream", b"text/event-stream"),
        (b"Text/Event-Stream; Charset=UTF-8", b"Text/Event-Stream; Charset=UTF-8"),
        (b'application/json;charset="utf-8"', b'application/json;charset="utf-8"'),
        (b"application/json; charset=latin-1", b"application/json"),
        (b"application/json; x=sk-ant-something", b"application/json"),
        (b"application/json; charset=utf-8; x=1", b"application/json"),
    ],
)
def test_a_content_type_is_relayed_with_no_other_parameter_than_utf_8(value: bytes, relayed: bytes) -> None:
    assert relayed_headers({b"content-type": value}, None) == [(b"content-type", relayed)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/json", b"application/json"),
        (b"Application/JSON; charset=UTF-8", b"application/json"),
        (b" text/event-stream ;x", b"text/event-stream"),
        (b";", b""),
        (b"", b""),
    ],
)
def test_the_media_type_has_no_parameters(value: bytes, expected: bytes) -> None:
    assert media_type({b"a": b"b", b"content-type": value}) == expected
    assert media_type({}) == b""


def test_of_a_repeated_reply_header_the_first_line_is_used() -> None:
    assert reply_fields([(b"a", b"1"), (b"b", b"3"), (b"a", b"2")]) == {b"a": b"1", b"b": b"3"}
    assert reply_fields([]) == {}
