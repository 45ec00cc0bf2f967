"""The commands `bud-asgi import ...`: a configuration file made of that of another gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import IO, Any, cast

import click

from bud_asgi.cli.litellm import convert
from bud_asgi.cli.settings import fail


@click.group("import")
def import_group() -> None:
    """Convert the configuration of another gateway."""


@import_group.command()
@click.argument("config", metavar="CONFIG.YAML", type=click.File("rb"))
def litellm(config: IO[bytes]) -> None:
    """Convert CONFIG.YAML, the file of LiteLLM's proxy.

    The result is written to stdout, and what cannot be converted is listed on stderr. Secrets are not copied: the file
    refers to environment variables. The exit status is 1 if nothing could be converted.
    """
    import yaml  # noqa: PLC0415 - needed by nothing else

    try:
        read = cast("object", yaml.safe_load(config))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"{config.name}: not valid YAML: {' '.join(str(error).split())}")
    if not isinstance(read, dict):
        fail(f"{config.name}: expected the sections of a LiteLLM configuration, such as model_list")
    converted = convert(cast("Mapping[str, Any]", read), os.environ)
    for note in converted.notes:
        click.secho(f"not converted: {note}", fg="yellow", err=True)
    if not converted.providers:
        fail(f"{config.name}: no model in it can be converted")
    sys.stdout.write(converted.text)
