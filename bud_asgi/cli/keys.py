"""Creation of API keys."""

from __future__ import annotations

import json

import click

from bud_asgi.auth import hash_api_key, new_api_key


def show_new_key(name: str) -> None:
    """Write the lines for the file to stdout, so that `>> gateway.toml` appends them, and the key itself to stderr."""
    key = new_api_key()
    click.echo(
        f"{click.style(key, bold=True)}\n(the API key of {name}; it is not shown again, the file stores only its hash)",
        err=True,
    )
    click.echo(f'\n[[keys]]\nname = {json.dumps(name, ensure_ascii=False)}\nhash = "{hash_api_key(key)}"')
