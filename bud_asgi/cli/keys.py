"""A new key: shown to its owner once, kept as its hash."""

from __future__ import annotations

import json

import click

from bud_asgi.auth import hash_api_key, new_api_key


def show_new_key(name: str) -> None:
    """The lines for the file go to stdout, so that `>> gateway.toml` takes them; the key itself to stderr."""
    key = new_api_key()
    click.echo(
        f"{click.style(key, bold=True)}\n(the key of {name}: shown this once; the file keeps its hash)", err=True
    )
    click.echo(f'\n[[keys]]\nname = {json.dumps(name, ensure_ascii=False)}\nhash = "{hash_api_key(key)}"')
