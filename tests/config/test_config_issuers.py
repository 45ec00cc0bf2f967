"""Issuers of tokens and the throttle in a file: the same objects as in code, and their problems by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import ENVIRON, KEYS, PROVIDER, written
from support.asgi import VERSION, call, http_scope
from support.issuer import AUDIENCE, local_issuer

from bud_asgi.auth import Grant, Issuer
from bud_asgi.cli.summary import show_settings
from bud_asgi.cli.warnings import warnings_of
from bud_asgi.config import ConfigError, divide_limits, read_file
from bud_asgi.limit import Limit

FULL = """
[[issuers]]
url = "https://login.example/realms/main"
audience = ["bud", "api"]
jwks_url = "https://login.example/keys?v=1"
algorithms = ["RS256", "ES384"]
types = ["at+jwt"]
leeway = "30s"
prefix = "main:"
id = "preferred_username"
name = "name"
team = ["org", "team"]
roles = ["realm_access", "roles"]
metadata = ["session"]

[issuers.required]
typ = "Bearer"
email_verified = true
azp = ["cli", "web-*"]

[[issuers.grants]]
role = "llm-users"
models = ["claude-haiku-*"]
limits = [{ requests = 10 }]

[[issuers.grants]]
role = "llm-admins"
"""


def problems(folder: Path, text: str) -> list[str]:
    file = written(folder, text)
    try:
        read_file(file, environ=ENVIRON).app()
    except ConfigError as error:
        return [str(problem).removeprefix(f"{file}:") for problem in error.problems]
    return []


def test_a_table_has_the_words_of_the_code(tmp_path: Path) -> None:
    settings = read_file(written(tmp_path, PROVIDER + FULL), environ=ENVIRON)
    assert settings.issuers == (
        Issuer(
            url="https://login.example/realms/main",
            audience=["bud", "api"],
            jwks_url="https://login.example/keys?v=1",
            algorithms=["RS256", "ES384"],
            types=["at+jwt"],
            leeway=30.0,
            prefix="main:",
            id="preferred_username",
            name="name",
            team=["org", "team"],
            roles=["realm_access", "roles"],
            metadata=["session"],
            required={"typ": "Bearer", "email_verified": True, "azp": ["cli", "web-*"]},
            grants=[
                Grant(role="llm-users", models=("claude-haiku-*",), limits=(Limit("requests", 10),)),
                Grant(role="llm-admins"),
            ],
        ),
    )
    assert settings.has_limits
    settings.app()


ISSUER = '\n[[issuers]]\nurl = "https://a.example"\naudience = "bud"\n'
WRONG: dict[str, tuple[str, list[str]]] = {
    "nothing in it": (
        "\n[[issuers]]\nleeway = 1\n",
        [
            "6: issuers[0].url: missing; expected an https URL",
            "6: issuers[0].audience: missing; expected the audience of the tokens, or a list of them",
        ],
    ),
    "an http URL": (
        '\n[[issuers]]\nurl = "http://a.example"\naudience = "bud"\n',
        ["7: issuers[0].url: must be an https URL: http is for this machine only"],
    ),
    "an HMAC": (
        ISSUER + 'algorithms = ["HS256"]\n',
        [
            (
                '9: issuers[0].algorithms: expected "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",'
                ' "ES384", "ES512" or "Ed25519", got "HS256" (did you mean "RS256"?)'
            )
        ],
    ),
    "an unknown key": (
        ISSUER + 'audiences = "x"\n',
        [
            (
                '9: issuers[0].audiences: unknown key (did you mean "audience"?); expected url, audience, jwks_url,'
                " algorithms, types, leeway, required, prefix, id, name, team, roles, grants or metadata"
            )
        ],
    ),
    "a leeway that is too long": (
        ISSUER + 'leeway = "1h"\n',
        ["9: issuers[0].leeway: expected a number of seconds, at most 600, got 3600.0"],
    ),
    "grants without roles": (
        ISSUER + '[[issuers.grants]]\nrole = "a"\n',
        ["9: issuers[0].grants: meaningless without roles"],
    ),
    "a wrong grant": (
        ISSUER + 'roles = "groups"\n[[issuers.grants]]\nmodels = ["a"]\nlimits = [{ per = "team" }]\n',
        [
            "10: issuers[0].grants[0].role: missing; expected a string that is not empty",
            (
                "12: issuers[0].grants[0].limits[0]: no amount; expected one of the keys requests, input_tokens,"
                " output_tokens, tokens or concurrent"
            ),
            ("12: issuers[0].grants[0].limits[0].per: a limit that a caller carries counts for that caller alone"),
        ],
    ),
    "a required table": (
        ISSUER + "required = { a = { b = 1 } }\n",
        [("9: issuers[0].required.a: expected a string, a whole number, true or false, or a list of them, got a dict")],
    ),
    "the same twice": (
        ISSUER + ISSUER,
        ["11: issuers[1].url: duplicate url, already used by issuers[0]"],
    ),
    "one prefix for two": (
        ISSUER + '\n[[issuers]]\nurl = "https://b.example"\naudience = "bud"\nprefix = "a.example:"\n',
        ["13: issuers[1].prefix: duplicate prefix, already used by issuers[0]"],
    ),
    "a throttle of nothing": (
        KEYS + "[throttle]\nfailures = 0\n",
        ["10: throttle.failures: expected a number of failures, at least 1, got 0"],
    ),
    "proxies that are names": (
        KEYS + '[throttle]\ntrusted_proxies = ["10.0.0.0/8", "proxy.example"]\n',
        [
            (
                '10: throttle.trusted_proxies[1]: expected an address or a network, such as "10.0.0.0/8",'
                ' got "proxy.example"'
            )
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG.keys())
def test_problems_are_named_by_line_and_key(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert problems(tmp_path, PROVIDER + text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROVIDER + ISSUER, ["1: allow_anonymous: cannot be combined with [[issuers]]"]),
        (
            PROVIDER + "[throttle]\nfailures = 1\n",
            ["6: throttle: meaningless with allow_anonymous: no authentication can fail"],
        ),
    ],
)
def test_what_admits_everyone_cannot_be_combined_with_them(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert problems(tmp_path, "allow_anonymous = true\n" + text) == expected


def test_limits_of_a_role_are_shown_and_divided(tmp_path: Path) -> None:
    settings = read_file(written(tmp_path, PROVIDER + FULL), environ=ENVIRON)
    text = show_settings(settings)
    assert "https://login.example/realms/main  bud, api  llm-users   claude-haiku-*" in text
    assert "role llm-users" in text
    assert "everyone" not in text
    assert divide_limits(settings, 2).issuers[0].grants[0].limits == (Limit("requests", 5),)
    with pytest.raises(ConfigError, match=r"issuers\[0\]\.grants\[0\]\.limits\[0\]\.requests: 10 cannot be divided"):
        divide_limits(settings, 11)


def test_a_route_for_callers_of_an_issuer_is_not_called_unused(tmp_path: Path) -> None:
    route = '\n[[routes]]\nmodel = "*"\nto = ["anthropic"]\nprincipals = ["a.example:*"]\n'
    settings = read_file(written(tmp_path, PROVIDER + ISSUER + route), environ=ENVIRON)
    assert not [warning for warning in warnings_of(settings) if "never used" in warning.message]


async def test_a_token_and_a_key_are_accepted_by_the_app_of_a_file(tmp_path: Path) -> None:
    async with local_issuer() as issuer:
        text = (
            f'{PROVIDER}{KEYS}\n[[issuers]]\nurl = "{issuer.url}"\naudience = "{AUDIENCE}"\n[throttle]\nfailures = 1\n'
        )
        app = read_file(written(tmp_path, text), environ=ENVIRON).app()
        valid = issuer.token()  # another one, issued a second later, would not be known
        for token, status in ((valid, 200), ("sk-bud-wrong", 401), ("sk-bud-wrong", 429), (valid, 200)):
            lines = [VERSION, (b"authorization", b"Bearer " + token.encode())]
            sent = await call(app, http_scope(lines, method="GET", path="/v1/models"))
            assert sent.status == status
