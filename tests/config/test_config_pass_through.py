"""A provider that passes the client's credential on, and what a file can combine with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bud_asgi import ConfigError
from bud_asgi.config import read_file

HASH = "sha256:" + "0" * 64
PASSING = '[providers.up]\nkind = "anthropic"\nauth = "client"\n'


def problems(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    try:
        read_file(file, environ={"K": "k"}).app()
    except ConfigError as error:
        return [str(problem).removeprefix(f"{file}:") for problem in error.problems]
    return []


def test_it_needs_no_key_even_at_the_service_itself(tmp_path: Path) -> None:
    assert problems(tmp_path, f"allow_anonymous = true\n{PASSING}trace_context = true\n") == []


def test_callers_may_have_keys_of_the_gateway_beside_it(tmp_path: Path) -> None:
    assert problems(tmp_path, f'{PASSING}[[keys]]\nname = "a"\nhash = "{HASH}"\n') == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            f'allow_anonymous = true\n{PASSING}api_key = "env:K"\n',
            '5: providers.up.api_key: cannot be combined with auth = "client"',
        ),
        (
            'allow_anonymous = true\n[providers.up]\nkind = "anthropic"\nauth = "none"\n',
            '4: providers.up.auth: expected "x-api-key", "bearer" or "client", got "none"',
        ),
    ],
)
def test_what_cannot_be_combined_with_it_is_reported(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in problems(tmp_path, text)
