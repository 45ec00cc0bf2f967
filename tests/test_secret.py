"""A credential shows nothing of itself, whichever way it is shown."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import traceback

import pytest

from bud_asgi.secret import Secret

VALUE = "sk-ant-very-secret"
NAME = "BUD_ASGI_TEST_SECRET"


def test_it_is_revealed_where_it_is_needed() -> None:
    assert Secret(VALUE).reveal() == VALUE


def test_no_way_to_show_it_shows_it() -> None:
    secret = Secret(VALUE)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>40}",
        format(secret),
        "%s" % secret,  # noqa: UP031 - this is how logging does it
        ascii(secret),
        repr([secret]),
        pprint.pformat({"key": secret}),
    ]
    assert all("Secret(...)" in text for text in shown)
    assert not any(VALUE in text for text in shown)
    assert not hasattr(secret, "__dict__")


def test_json_does_not_take_it() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret(VALUE))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match=r"^a Secret cannot be pickled$"):
        pickle.dumps(Secret(VALUE), protocol)
    with pytest.raises(TypeError, match=r"^a Secret cannot be pickled$"):
        copy.copy(Secret(VALUE))


def test_a_traceback_with_local_names_does_not_show_it() -> None:
    def fails() -> None:
        secret = Secret(VALUE)
        raise ZeroDivisionError(secret)

    with pytest.raises(ZeroDivisionError) as failed:
        fails()
    shown = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert "secret = Secret(...)" in shown
    assert VALUE not in shown


def test_a_log_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("bud_asgi.test").info("the key is %s, %r", Secret(VALUE), Secret(VALUE))
    assert "the key is Secret(...), Secret(...)" in caplog.text
    assert VALUE not in caplog.text


REFUSED: dict[str, str] = {
    "nothing": "",
    "a blank": "two words",
    "a line end behind it": VALUE + "\n",
    "a carriage return behind it": VALUE + "\r",
    "a line that is injected": VALUE + "\r\nx-other: a",
    "a tab": VALUE + "\t",
    "a zero": VALUE + "\x00",
    "a control character": VALUE + "\x7f",
    "a letter beyond ASCII": VALUE + "é",
    "a blank of Unicode": VALUE + "\u00a0",
    "a byte order mark": "\ufeff" + VALUE,
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_what_can_t_be_sent_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ValueError, match="secret") as refused:
        Secret(value)
    assert str(refused.value) == "a secret must be visible ASCII without spaces or line breaks, and not empty"
    assert VALUE not in "".join(traceback.format_exception_only(refused.value))


def test_every_visible_letter_may_be_in_it() -> None:
    value = "".join(map(chr, range(0x21, 0x7F)))
    assert Secret(value).reveal() == value


def test_it_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, VALUE)
    assert Secret.from_env(NAME).reveal() == VALUE


def test_a_variable_that_is_not_set_or_empty_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with pytest.raises(ValueError, match=rf"^the environment variable {NAME} is not set$"):
        Secret.from_env(NAME)
    monkeypatch.setenv(NAME, "")
    with pytest.raises(ValueError, match=rf"^the environment variable {NAME} is not set$"):
        Secret.from_env(NAME)


def test_a_variable_with_a_line_end_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, VALUE + "\n")
    with pytest.raises(ValueError, match="visible ASCII") as refused:
        Secret.from_env(NAME)
    assert VALUE not in str(refused.value)


def test_it_is_blotted_out_of_a_text() -> None:
    assert Secret(VALUE).redact(f"key {VALUE} or {VALUE}!") == "key [secret] or [secret]!"
    assert Secret(VALUE).redact("nothing of it") == "nothing of it"


def test_equality_is_identity() -> None:
    secret = Secret(VALUE)
    assert secret == secret
    assert secret != Secret(VALUE)
    assert len({secret, Secret(VALUE)}) == 2
