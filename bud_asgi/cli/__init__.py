"""The command line, `bud-asgi`. Only this package imports click."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: with 0 on success, with 2 for wrong arguments or an invalid configuration."""
    try:
        from bud_asgi.cli.commands import group  # noqa: PLC0415 - click is an optional extra
    except ModuleNotFoundError as error:
        if error.name not in {"click", "uvicorn"}:
            raise
        print(f"bud-asgi needs {error.name}: pip install 'bud-asgi[server]'", file=sys.stderr)
        sys.exit(2)
    group(prog_name="bud-asgi")
