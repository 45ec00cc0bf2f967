"""Nothing that is shown (a repr, the attributes of an object, an error, the check of a file) has a credential in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bud_asgi import Anthropic, ApiKey, Bedrock, Principal, Vertex, hash_api_key
from bud_asgi.cli.commands import group
from bud_asgi.config import ConfigError, Settings, from_file, read_file
from bud_asgi.http import HttpRequest, Origin
from bud_asgi.protocol.request import decode_request
from bud_asgi.providers import AwsCredential, EncodedRequest, GoogleCredential, ProviderRequest

CANARY = "sk-ant-CANARY"
ACCOUNT = {"type": "service_account", "client_email": "CANARY", "private_key": "CANARY", "token_uri": "CANARY"}
_ADDRESS = {"base_url", "_path", "_target"}  # a path with a key in it is needed for calls
MESSAGE = decode_request(b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"CANARY"}]}')
HTTP = HttpRequest(Origin("h", 80), b"POST", b"/v1/" + CANARY.encode(), [(b"x-api-key", CANARY.encode())], b"CANARY")


def shown_objects() -> list[object]:
    anthropic = Anthropic(api_key=CANARY, base_url=f"https://proxy.example/{CANARY}/x")
    aws: Any = {"access_key": CANARY, "secret_key": CANARY, "session_token": CANARY}
    google = GoogleCredential(service_account_info=ACCOUNT)
    key = ApiKey(name="ci", hash=hash_api_key("CANARY"))
    return [
        anthropic,
        anthropic.credential,
        Anthropic(api_key=CANARY, auth="bearer").credential,
        Bedrock(region="us-east-1", **aws),
        AwsCredential(region="us-east-1", bearer_token=CANARY),
        Vertex(project="p", service_account_info=ACCOUNT),
        google,
        key,
        Settings(source="environment", providers=(anthropic,), keys=(key,)),
        Principal(id="p", metadata={"token": CANARY}),
        HTTP,
        EncodedRequest(HTTP),
        MESSAGE,
        ProviderRequest(MESSAGE, {b"authorization": CANARY.encode()}),
    ]


@pytest.mark.parametrize("value", shown_objects(), ids=lambda value: type(value).__name__)
def test_no_object_shows_a_credential_or_a_body(value: object) -> None:
    texts = [repr(value), str(value), f"{value}", repr([value])]
    if hasattr(value, "__dict__"):
        texts.append(repr({name: held for name, held in vars(value).items() if name not in _ADDRESS}))
    assert not any("CANARY" in text or hash_api_key("CANARY") in text for text in texts)


PASTED = {
    "behind env:": 'api_key = "env:ABSKCANARY"',
    "behind env:, of an unknown form": 'api_key = "env:CANARYpass1"',
    "behind file:": f'api_key = "file:{CANARY}"',
    "behind file:, of an unknown form": 'api_key = "file:CANARYpass1"',
    "behind file:, with slashes": 'api_key = "file:wJalrXUtnFEMI/K7MDENG/bPxRfiCYCANARYKEY"',
    "as a key": f'{CANARY} = "x"',
    "as a key that is there twice": f"{CANARY} = 1\n{CANARY} = 2",
    "in an inline table": f'timeouts = {{ "{CANARY}" = 1, "{CANARY}" = 2 }}',
    "as a URL": f'base_url = "{CANARY}"',
    "in a URL": 'base_url = "https://me:CANARY@host"',
    "as an enumerated value": f'auth = "{CANARY}"',
    "as a number": f'timeouts = {{ connect = "{CANARY}" }}',
}


@pytest.mark.parametrize("line", PASTED.values(), ids=PASTED.keys())
def test_no_problem_of_a_file_shows_a_secret_that_was_pasted_into_it(line: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'allow_anonymous = true\n[providers."{CANARY}"]\nkind = "anthropic"\n{line}\n')
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ={})
    assert "CANARY" not in str(raised.value)
    result = CliRunner().invoke(group, ["check", str(file)])
    assert result.exit_code == 2
    assert "CANARY" not in result.output


def test_an_unknown_provider_does_not_show_a_secret_among_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'allow_anonymous = true\n[providers."{CANARY}"]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1"\n'
        f'[[routes]]\nmodel = "*"\nto = ["{CANARY}x"]\n'
    )
    with pytest.raises(ConfigError) as raised:
        read_file(file, environ={})
    assert "CANARY" not in str(raised.value)


def test_check_shows_no_name_or_url_that_is_a_credential_and_warns_of_permissions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, key = tmp_path / "gateway.toml", tmp_path / "key"
    file.write_text(
        f'[providers."{CANARY}"]\nkind = "anthropic"\nbase_url = "http://127.0.0.1:1/{CANARY}"\napi_key = "file:key"\n'
        f'[[keys]]\nname = "{CANARY}"\nhash = "{hash_api_key("x")}"\nmodels = ["{CANARY}"]\n'
    )
    key.write_text(CANARY)
    file.chmod(0o664)
    key.chmod(0o640)
    result = CliRunner().invoke(group, ["check", str(file)])
    assert result.exit_code == 0
    assert "CANARY" not in result.output
    assert f"warning: {file}: can be written by its group or by others (mode 0664): chmod go-w" in result.output
    assert f".api_key: {key} can be read by its group or by others (mode 0640): chmod go=" in result.output
    for options in (["--json"], ["--live"], ["--live", "--json"]):
        assert "CANARY" not in CliRunner().invoke(group, ["check", str(file), *options]).output
    caplog.clear()
    from_file(file)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    file.chmod(0o600)
    key.chmod(0o600)
    assert "can be" not in CliRunner().invoke(group, ["check", str(file)]).output
