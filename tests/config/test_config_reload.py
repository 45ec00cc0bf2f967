"""A file that is read again: what has changed is described, and what has not goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bud_asgi import ConfigError, MessagesApp, from_file, hash_api_key, reload_file
from bud_asgi.auth import Anonymous

CANARY = "sk-ant-CANARY-of-the-operators"
ENVIRON = {"FIRST": f"{CANARY}-1", "SECOND": f"{CANARY}-2"}
HASHES = {name: hash_api_key(f"sk-bud-{name}") for name in ("ci", "ann", "bob")}
FILE = f"""\
max_body = 1000000

[providers.anthropic]
kind = "anthropic"
api_key = "env:FIRST"

[providers.local]
kind = "anthropic"
base_url = "http://127.0.0.1:9"
api_key = "file:key"

[[keys]]
name = "ci"
hash = "{HASHES["ci"]}"

[[keys]]
name = "ann"
hash = "{HASHES["ann"]}"
models = ["claude-*"]

[[limits]]
requests = 60

[[limits]]
concurrent = 5
per = "all"

[[routes]]
model = "claude-*"
to = ["anthropic", "local"]

[[routes]]
model = "*"
to = ["local"]
"""

Edit = Callable[[str], str]


def swap(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


def cut(start: str, end: str) -> Edit:
    return lambda text: text[: text.index(start)] + text[text.index(end) :]


EDITS: dict[str, tuple[Edit, list[str]]] = {
    "nothing": (lambda text: f"# a comment\n{text}", []),
    "a secret": (swap("env:FIRST", "env:SECOND"), ["providers.anthropic: api_key changed"]),
    "two options": (
        swap('base_url = "http://127.0.0.1:9"', 'base_url = "http://127.0.0.1:8"\ntimeouts = { connect = "3s" }'),
        ["providers.local: base_url, timeouts changed"],
    ),
    "a provider more": (
        lambda text: f'{text}\n[providers.third]\nkind = "anthropic"\napi_key = "env:FIRST"\n',
        ["providers.third added"],
    ),
    "a provider less": (
        lambda text: swap('to = ["local"]', 'to = ["anthropic"]')(
            swap('["anthropic", "local"]', '["anthropic"]')(cut("[providers.local]", "[[keys]]")(text))
        ),
        ["providers.local removed", 'routes[0] "claude-*": to changed', 'routes[1] "*": to changed'],
    ),
    "a key more": (
        lambda text: f'{text}\n[[keys]]\nname = "bob"\nhash = "{HASHES["bob"]}"\n',
        ['key "bob" added'],
    ),
    "a key less": (cut('[[keys]]\nname = "ann"', "[[limits]]"), ['key "ann" removed']),
    "a key's hash and models": (
        lambda text: swap(HASHES["ann"], HASHES["bob"])(swap('models = ["claude-*"]', 'models = ["*"]')(text)),
        ['key "ann": hash, models changed'],
    ),
    "a limit's amount": (
        swap("requests = 60", 'requests = 90\nwait = "2s"'),
        ["limit changed: 60 requests per minute per principal to 90 requests per minute per principal, waiting 2 s"],
    ),
    "another window": (
        swap("requests = 60", 'requests = 60\nwindow = "1h"'),
        [
            "limit removed: 60 requests per minute per principal",
            "limit added: 60 requests per hour per principal",
        ],
    ),
    "no limits": (
        cut("[[limits]]", "[[routes]]"),
        [
            "limit removed: 60 requests per minute per principal",
            "limit removed: 5 concurrent requests per all",
        ],
    ),
    "a route more": (
        swap("[[routes]]", '[[routes]]\nmodel = "gpt-*"\nto = ["local"]\n\n[[routes]]'),
        ['routes[0] "gpt-*" added'],
    ),
    "a route less": (cut("[[routes]]", '[[routes]]\nmodel = "*"'), ['routes[0] "claude-*" removed']),
    "values": (
        swap("max_body = 1000000", 'max_body = 2000000\nroute_header = true\nfields = { speed = "refuse" }'),
        ['field "speed" added', "max_body changed to 2000000", "route_header changed to true"],
    ),
    "a throttle": (lambda text: f"{text}\n[throttle]\nfailures = 5\n", ["throttle added"]),
    "a store of keys": (lambda text: f'{text}\n[key_store]\nurl = "sqlite:k.db"\n', ["key_store added"]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tmp_path.joinpath("key").write_text(f"{CANARY}-3\n")
    tmp_path.joinpath("gateway.toml").write_text(FILE)
    return tmp_path / "gateway.toml"


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS.keys())
def test_each_change_is_described(edit: Edit, expected: list[str], file: Path) -> None:
    messages = from_file(file, environ=ENVIRON)
    file.write_text(edit(FILE))
    assert list(reload_file(messages, ENVIRON)) == expected
    assert messages.revision == (2 if expected else 1)
    file.write_text(FILE)
    back = reload_file(messages, ENVIRON)
    assert (len(back), messages.revision) == (len(expected), 3 if expected else 1)
    assert CANARY not in "".join([*expected, *back, repr(messages.source)])


def test_references_are_looked_up_again(file: Path) -> None:
    messages = from_file(file, environ=ENVIRON)
    assert reload_file(messages, {**ENVIRON, "FIRST": f"{CANARY}-4"}) == ["providers.anthropic: api_key changed"]
    file.with_name("key").write_text(f"{CANARY}-5")
    assert reload_file(messages, {**ENVIRON, "FIRST": f"{CANARY}-4"}) == ["providers.local: api_key changed"]


def test_what_has_not_changed_stays_the_same_object(file: Path) -> None:
    more = '\n[key_store]\nurl = "sqlite:k.db"\n[store]\nurl = "redis://127.0.0.1:1"\n'
    file.write_text(FILE + more)
    messages = from_file(file, environ=ENVIRON)
    before = messages._revisions.current.options
    file.write_text(swap("127.0.0.1:9", "127.0.0.1:8")(FILE) + more)
    reload_file(messages, ENVIRON)
    after = messages._revisions.current.options
    assert after.providers[0] is before.providers[0]
    assert after.providers[1] is not before.providers[1]
    assert after.store is before.store
    file.write_text(FILE + more.replace(":1", ":2"))
    assert reload_file(messages, ENVIRON) == ["providers.local: base_url changed", "store: url changed"]
    assert messages._revisions.current.options.store is not before.store


def test_a_limit_of_a_host_s_own_dimension_goes_on(file: Path) -> None:
    def tenant(exchange: object) -> str:
        return "one"

    file.write_text(swap('per = "all"', 'per = "tenant"')(FILE))
    messages = from_file(file, environ=ENVIRON, dimensions={"tenant": tenant})
    file.write_text(swap('per = "all"', 'per = "tenant"')(FILE).replace("= 5", "= 6"))
    (change,) = reload_file(messages, ENVIRON)
    assert change.startswith("limit changed: 5 concurrent requests per ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[providers]\nx =\n", "gateway.toml:2: invalid TOML"),
        (FILE.replace("requests = 60", "requests = 0"), "gateway.toml:22: limits[0].requests: expected"),
        (FILE.replace("env:FIRST", "env:NONE"), "gateway.toml:5: providers.anthropic.api_key: the environment"),
        (FILE.replace('to = ["local"]', 'to = ["nowhere"]'), "routes[1].to"),
        (None, "gateway.toml: cannot read the file"),
    ],
    ids=["not TOML", "a wrong value", "a missing secret", "a route to nowhere", "no file"],
)
def test_a_file_with_a_problem_changes_nothing(text: str | None, expected: str, file: Path) -> None:
    messages = from_file(file, environ=ENVIRON)
    before = messages._revisions.current
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match="gateway") as raised:
        reload_file(messages, ENVIRON)
    assert expected in str(raised.value)
    assert CANARY not in str(raised.value)
    assert file in raised.value.files
    assert messages._revisions.current is before
    file.write_text(FILE)
    assert reload_file(messages, ENVIRON) == []


def test_an_app_that_was_made_in_code_has_no_file(file: Path) -> None:
    providers = from_file(file, environ=ENVIRON)._revisions.current.options.providers[:1]
    with pytest.raises(TypeError, match="was not made from a file"):
        reload_file(MessagesApp(auth=Anonymous(), providers=providers))
