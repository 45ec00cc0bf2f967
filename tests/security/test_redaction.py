"""An upstream that echoes the gateway's credential: nothing of it reaches a client or a log."""

from __future__ import annotations

import json
import random
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.calls import UPSTREAM_KEY
from support.counts import examples
from support.gateway import Gateway, gateway

from bud_asgi import Anonymous, Anthropic
from bud_asgi.protocol.errors import error_body
from bud_asgi.providers import AwsCredential, UpstreamErrorResponse, hide_credential_error
from bud_asgi.secret import Secret, redact
from bud_asgi.testing import StandIn, ThreadedStandIn, error, json_body, sse

FAILED = {"type": "api_error", "message": "upstream authentication failed"}
START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0}\n\n'


def escaped(key: str, seed: int) -> str:
    """The key in a JSON string, each character escaped in one of the ways that JSON allows."""
    choose = random.Random(seed)
    written = ""
    for char in key:
        hexadecimal = f"\\u{ord(char):04x}"
        ways = [json.dumps(char)[1:-1], hexadecimal, hexadecimal.upper().replace("\\U", "\\u")]
        written += choose.choice([*ways, "\\/"] if char == "/" else ways)
    return written


ECHOES = {
    "plain": UPSTREAM_KEY,
    "as a header": f"x-api-key: {UPSTREAM_KEY}, authorization: Bearer {UPSTREAM_KEY}",
    "escaped": UPSTREAM_KEY.replace("-", "\\u002d"),
    "escaped with capitals": UPSTREAM_KEY.replace("-", "\\u002D"),
    "escaped throughout": "".join(f"\\u{ord(char):04x}" for char in UPSTREAM_KEY),
    "in nested JSON": json.dumps(json.dumps({"key": UPSTREAM_KEY}))[1:-1],
    "escaped in nested JSON": json.dumps('{"key":"' + UPSTREAM_KEY.replace("a", "\\u0061") + '"}')[1:-1],
    "an escape that is escaped": UPSTREAM_KEY.replace("-", "\\u005cu002d"),
    "in a URL": UPSTREAM_KEY.replace("-", "%2D"),
    "in a URL, twice": UPSTREAM_KEY.replace("-", "%252d"),
    "in a URL, the percent sign escaped": UPSTREAM_KEY.replace("-", "\\u00252d"),
}


def decoded(text: str) -> str:
    """The text with all escapes undone, again and again: the reader that is hardest to hide from."""
    for _ in range(6):
        for code in range(0x20, 0x7F):
            for escape in (f"\\u{code:04x}", f"\\u{code:04X}", f"%{code:02x}", f"%{code:02X}"):
                text = text.replace(escape, chr(code))
    return text.replace("\\", "")


def assert_hidden(*shown: str) -> None:
    for text in shown:
        assert UPSTREAM_KEY not in text
        assert UPSTREAM_KEY not in decoded(text)


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_an_upstream_that_echoes_our_key_in_an_error_shows_it_to_nobody(
    here: Gateway, upstream: ThreadedStandIn, echo: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    envelope = b'{"type":"error","error":{"type":"x","message":"no: %b"},"request_id":"r"}' % echo.encode()
    upstream.enqueue(json_body(envelope, status=status))
    reply = here.post()
    assert (reply.status_code, reply.json()["error"]) == (502, FAILED)
    here.account()
    assert_hidden(reply.text, str(reply.headers), caplog.text)
    assert "[secret]" in caplog.text


FORMS = {
    "FastAPI's": b'{"detail":"no: %b"}',
    "OpenAI's": b'{"error":{"message":"no: %b","type":"x","code":null}}',
    "a text": b'{"error":"no: %b"}',
    "a page": b"<html>%b</html>",
    "plain text": b"no: %b",
}


@pytest.mark.parametrize("status", [401, 413])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_an_echo_in_another_form_of_error_is_shown_to_nobody(
    here: Gateway, upstream: ThreadedStandIn, echo: str, form: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.enqueue(json_body(form % echo.encode(), status=status))
    reply = here.post()
    assert reply.status_code == (502 if status == 401 else status)
    here.account()
    assert_hidden(reply.text, str(reply.headers), caplog.text)


def test_a_key_that_crosses_the_bound_of_a_log_line_is_not_shown_in_part(
    here: Gateway, upstream: ThreadedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    for size in range(900, 1001, 8):
        upstream.enqueue(json_body(b"x" * size + UPSTREAM_KEY.encode() * 9, status=500))
        upstream.enqueue(json_body({"detail": "x" * size + UPSTREAM_KEY * 9}, status=500))
        assert UPSTREAM_KEY[:10] not in here.post().text + here.post().text
    assert UPSTREAM_KEY[:10] not in caplog.text


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("size", [None, 7], ids=["whole", "pieces"])
def test_an_echo_in_an_error_event_in_mid_stream_is_replaced(
    here: Gateway,
    upstream: ThreadedStandIn,
    echo: str,
    named: bool,
    size: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = b'data: {"type":"error","error":{"type":"x","message":"%b"}}\n\n' % echo.encode()
    upstream.enqueue(replace(sse(START + DELTA + (b"event: error\n" if named else b"") + data), piece=size))
    reply = here.post({"stream": True})
    assert reply.status_code == 200
    assert reply.content.startswith(START + DELTA)
    last = reply.content.removeprefix(START + DELTA)
    assert last.startswith(b"event: error\ndata: ")
    assert last.count(b"\n\n") == 1
    told = json.loads(last.removeprefix(b"event: error\ndata: "))
    assert (told["error"], told["request_id"]) == (FAILED, reply.headers["request-id"])
    assert here.account().outcome == "upstream_failed"
    assert_hidden(reply.text, caplog.text)


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_an_echo_in_the_first_event_is_a_502(here: Gateway, upstream: ThreadedStandIn, echo: str) -> None:
    upstream.enqueue(sse(b'event: error\ndata: {"error":{"type":"x","message":"%b"}}\n\n' % echo.encode()))
    reply = here.post({"stream": True})
    assert (reply.status_code, reply.json()["error"]) == (502, FAILED)
    assert_hidden(reply.text)


def test_an_error_event_that_cannot_be_read_is_searched_too(here: Gateway, upstream: ThreadedStandIn) -> None:
    upstream.enqueue(sse(b"event: error\ndata: bad key %b\n\n" % UPSTREAM_KEY.encode()))
    assert_hidden(here.post({"stream": True}).text)


def test_an_error_event_behind_the_end_is_searched_too(here: Gateway, upstream: ThreadedStandIn) -> None:
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    upstream.enqueue(sse(START + stop + b"event: error\ndata: %b\n\n" % UPSTREAM_KEY.encode()))
    assert_hidden(here.post({"stream": True}).text)


@pytest.mark.parametrize("value", [UPSTREAM_KEY, f"Bearer {UPSTREAM_KEY}", f"req-{UPSTREAM_KEY}.x"])
@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_an_echo_in_a_header_is_not_relayed_and_not_logged(
    here: Gateway, upstream: ThreadedStandIn, value: str, status: int, stream: bool
) -> None:
    names = ["request-id", "x-amzn-requestid", "retry-after", "retry-after-ms", "x-should-retry"]
    lines = dict.fromkeys(names, value)
    kind = f"text/event-stream; charset={value}" if stream else f'application/json; x="{value}"'
    reply = error(status, "x", "no", headers=lines) if status != 200 else sse(START) if stream else json_body({})
    upstream.enqueue(replace(reply, headers=(*lines.items(), ("content-type", kind))))
    answer = here.post({"stream": stream})
    assert answer.status_code == status
    assert_hidden(str(answer.headers))
    assert here.account().attempts[0].upstream_request_id is None


COMMON = ["ollama", "EMPTY", "none", "test", "x", "sk-no-key-required", "no-api-key-required", "your-api-key-here"]


@pytest.mark.parametrize("key", COMMON)
def test_a_common_word_as_a_key_is_never_taken_for_an_echo(key: str) -> None:
    """Servers that check no key get a word, which their answers may contain."""
    with StandIn(api_key=key).in_thread() as upstream:
        provider = Anthropic(api_key=key, base_url=upstream.base_url)
        with gateway("", providers=[provider]) as here:
            refused = json_body({"type": "error", "error": {"type": "not_found_error", "message": key}}, status=404)
            other = json_body({"detail": f"no model {key}"}, status=404)
            event = b'event: error\ndata: {"type":"error","error":{"type":"x","message":"%b"}}\n\n' % key.encode()
            upstream.enqueue(refused, other, sse(START + event))
            assert here.post().json()["error"]["message"] == key
            assert here.post().json()["error"]["message"] == f"no model {key}"
            assert here.post({"stream": True}).content == START + event


def test_the_content_of_a_message_is_not_searched(here: Gateway, upstream: ThreadedStandIn) -> None:
    said = json_body({"type": "message", "content": [{"type": "text", "text": f"error {UPSTREAM_KEY}"}]})
    upstream.enqueue(said)
    assert here.post().content == said.body


def test_the_clients_own_key_is_not_logged() -> None:
    key = "sk-ant-oat01-of-the-client"

    with StandIn(strict=False).in_thread() as upstream:
        provider = Anthropic(auth="client", base_url=upstream.base_url)
        with gateway("", providers=[provider], auth=Anonymous()) as here:
            for form in FORMS.values():
                upstream.enqueue(json_body(form % key.encode(), status=400))
                here.post(headers={"authorization": f"Bearer {key}", "anthropic-version": "2023-06-01"})
                assert key not in (here.account().attempts[0].failure or "")
                here.forget()


_keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=16, max_size=40).filter(
    lambda key: "\\" not in key and "%" not in key and not key.isalnum()
)


@pytest.mark.torture
@examples(30)
@given(key=_keys, seed=st.integers(0, 1 << 30), before=st.text(max_size=5), after=st.text(max_size=5))
def test_whatever_escapes_json_allows_a_relayed_error_never_contains_the_key(
    key: str, seed: int, before: str, after: str
) -> None:
    strings = f'"{json.dumps(before)[1:-1]}{escaped(key, seed)}{json.dumps(after)[1:-1]}"'
    nested = json.dumps('{"a":%s}' % strings)  # noqa: UP031
    provider = Anthropic(api_key=key)
    for message in (strings, nested):
        body = ('{"type":"error","error":{"type":"x","message":%s},"request_id":""}' % message).encode()  # noqa: UP031
        assert key in decoded_twice(json.loads(body)["error"]["message"])
        shown = hide_credential_error(provider, "req", UpstreamErrorResponse(400, body, []))
        text = json.loads(error_body(shown, "req"))["error"]["message"]
        assert key not in decoded_twice(text)


def decoded_twice(text: str) -> str:
    """The text, and what it is as JSON again."""
    try:
        return text + str(json.loads(text)["a"])
    except (ValueError, TypeError, KeyError):
        return text


@pytest.mark.torture
@examples()
@given(text=st.text(st.sampled_from("\\u%25cC0d-sk/4")))
def test_a_text_without_the_key_is_unchanged(text: str) -> None:
    assert redact(text, ["another-key-0123456789"]) == text


async def test_temporary_keys_are_found_in_a_url_too() -> None:
    token = "FwoGZXIvYXdzEJr//////////wEaDPt+X="
    credential = AwsCredential(
        region="us-east-1", access_key="AKIA" + "A" * 16, secret_key="s/" * 20, session_token=token
    )
    for spelled in (token, quote(token, safe=""), token.replace("/", "\\/"), token.replace("+", "\\u002b")):
        assert credential.redact(f"X-Amz-Security-Token={spelled}&x") == "X-Amz-Security-Token=[secret]&x"
    assert Secret(token).redact("nothing") == "nothing"
