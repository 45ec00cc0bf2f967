"""The command line, `bud-asgi`. Only this package imports click."""

from __future__ import annotations

import sys

from bud_asgi.cli.serve.hangup import hold_hangup
from bud_asgi.extras import install_command

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: with 0 on success, with 2 for wrong arguments or an invalid configuration."""
    if sys.argv[1:2] == ["serve"]:
        hold_hangup()  # at once: the imports that follow take long
    try:
        from bud_asgi.cli.commands import group  # noqa: PLC0415 - click is an optional extra
    except ModuleNotFoundError as error:
        if error.name not in {"click", "uvicorn"}:
            raise
        print(f"error: bud-asgi needs {error.name}: {install_command('server')}", file=sys.stderr)
        sys.exit(2)
    group(prog_name="bud-asgi")
