"""The command `bud-asgi`. It is outside of the package, whose import takes so long that a SIGHUP could end `serve`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line, and exit."""
    if sys.argv[1:2] == ["serve"] and hasattr(signal, "SIGHUP"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until `serve` takes it
    from bud_asgi.cli import main as run

    run()
