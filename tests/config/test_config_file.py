"""A file becomes the same objects that code would make, and they serve requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from config_files import ENVIRON, HASH, KEYS, OTHER_HASH, PROVIDER, ROUTES, written

from bud_asgi import Anthropic, ApiKey, Limit, Route, Target, hash_api_key
from bud_asgi.config import ConfigError, Settings, from_file, read_file
from bud_asgi.config.settings import ConfiguredProvider
from bud_asgi.http import Header, HttpRequest, Origin, Timeouts
from bud_asgi.providers import Credential
from bud_asgi.testing import StandIn
from bud_asgi.testing.server.serving import serving

WHOLE = f"""
max_body = 1000000
body_budget = 8000000
body_budget_per_principal = 2000000
access_log = true

[providers.anthropic]
kind = "anthropic"
api_key = "env:ANTHROPIC_API_KEY"

[providers.local]
kind = "anthropic"
base_url = "http://127.0.0.1:11434/x"
api_key = "file:local.key"
auth = "bearer"
timeouts = {{ connect = 1, first_byte = 2.5 }}

[[keys]]
name = "ci"
hash = "{HASH}"

[[keys]]
name = "intern"
hash = "{OTHER_HASH}"
team = "interns"
models = ["fast", "claude-haiku-*"]

[[limits]]
requests = 60

[[limits]]
requests = 1000
window = "1h"
per = "all"
{ROUTES}
[[routes]]
model = "qwen*"
to = ["local", "anthropic"]
"""


def of_credential(credential: Credential) -> tuple[Header, ...]:
    """The headers in which a fixed API key is sent."""
    request = HttpRequest(Origin("upstream.invalid", 80), b"POST", b"/", [])
    return tuple(asyncio.run(credential.apply(request, {})).headers)


def of_provider(provider: ConfiguredProvider) -> dict[str, object]:
    """The state of a provider. Secrets and origins compare by identity, so they are replaced by their content."""
    there: dict[str, Any] = vars(provider) | {"credential": of_credential(provider.credential)}
    origin = there.pop("_origin")
    return {**there, "origin": (origin.host, origin.port, origin.tls is None)}


def test_it_is_equivalent_to_code(tmp_path: Path) -> None:
    (tmp_path / "local.key").write_text("sk-local\n")
    settings = read_file(written(tmp_path, WHOLE), environ=ENVIRON)
    providers = [
        Anthropic(api_key="sk-ant-CANARY"),
        Anthropic(
            name="local",
            base_url="http://127.0.0.1:11434/x",
            api_key="sk-local",
            auth="bearer",
            timeouts=Timeouts(1.0, 2.5, 300.0),
        ),
    ]
    assert list(map(of_provider, settings.providers)) == list(map(of_provider, providers))
    assert msgspec.structs.replace(settings, providers=(), tables={}, files=frozenset()) == Settings(
        source=str(tmp_path / "gateway.toml"),
        providers=(),
        keys=(
            ApiKey(name="ci", hash=HASH),
            ApiKey(name="intern", hash=OTHER_HASH, team="interns", models=("fast", "claude-haiku-*")),
        ),
        limits=(Limit("requests", 60), Limit("requests", 1000, 3600.0, "all")),
        routes=(
            Route("fast", [Target("anthropic", "claude-haiku-4-5")]),
            Route("claude-*", ["anthropic"]),
            Route("qwen*", ["local", "anthropic"]),
        ),
        max_body=1_000_000,
        body_budget=8_000_000,
        body_budget_per_principal=2_000_000,
        access_log=True,
    )


def test_a_request_through_it_is_answered_by_the_mapped_model(tmp_path: Path) -> None:
    with StandIn(api_key="sk-ant-CANARY").in_thread() as upstream:
        provider = f'{PROVIDER}base_url = "{upstream.base_url}"\n'
        keys = f'[[keys]]\nname = "me"\nhash = "{hash_api_key("sk-mine")}"\n'
        app = from_file(written(tmp_path, provider + keys + ROUTES), environ=ENVIRON)
        body = {"model": "fast", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"x-api-key": "sk-mine", "anthropic-version": "2023-06-01"}
        with serving(app) as url:
            reply = httpx.post(f"{url}/v1/messages", json=body, headers=headers)
        assert reply.status_code == 200
        assert upstream.requests[0].json()["model"] == "claude-haiku-4-5"


@pytest.mark.parametrize(
    ("window", "seconds"), [('"30s"', 30.0), ('"1m"', 60.0), ('"2h"', 7200.0), ("90", 90.0), ("0.5", 0.5)]
)
def test_a_window_is_a_duration_or_seconds(window: str, seconds: float, tmp_path: Path) -> None:
    limits = f"[[limits]]\nrequests = 1\nwindow = {window}\n"
    settings = read_file(written(tmp_path, PROVIDER + KEYS + limits), environ=ENVIRON)
    assert settings.limits == (Limit("requests", 1, seconds),)


@pytest.mark.parametrize(("content", "used"), [("k\n", "k"), ("k\r\n", "k"), ("k", "k")])
def test_one_line_break_at_the_end_of_a_file_is_removed(content: str, used: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "key").write_bytes(content.encode())
    provider = PROVIDER.replace("env:ANTHROPIC_API_KEY", "file:folder/key")
    settings = read_file(written(tmp_path, provider + KEYS), environ={})
    assert of_credential(settings.providers[0].credential) == ((b"x-api-key", used.encode()),)


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    (tmp_path / "elsewhere").mkdir()
    provider = PROVIDER.replace("env:ANTHROPIC_API_KEY", f"file:{tmp_path}/key")
    assert read_file(written(tmp_path / "elsewhere", provider + KEYS), environ={}).providers


def test_another_server_needs_no_key(tmp_path: Path) -> None:
    provider = '[providers.local]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n'
    settings = read_file(written(tmp_path, provider + KEYS), environ={})
    assert of_credential(settings.providers[0].credential) == ()


def test_anonymous_access_is_set_explicitly(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, "allow_anonymous = true\n" + PROVIDER), environ=ENVIRON).keys == ()


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    settings = read_file(written(tmp_path, PROVIDER + KEYS), environ=ENVIRON)
    for shown in (settings, settings.providers[0], settings.providers[0].credential, settings.app()):
        assert "CANARY" not in repr(shown) + str(shown)


def test_problems_that_only_the_app_finds_are_config_errors_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("not like this")

    monkeypatch.setattr("bud_asgi.config.settings.MessagesApp", refuse)
    with pytest.raises(ConfigError, match=r"gateway\.toml: not like this"):
        from_file(written(tmp_path, PROVIDER + KEYS), environ=ENVIRON)
