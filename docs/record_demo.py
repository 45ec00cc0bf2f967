"""Records the demo on a terminal of 80 columns, as a picture: `make docs/demo.svg`."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 80


def recorded() -> str:
    """Run the demo on a terminal of its own; return what it shows, with colours."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bud_asgi.cli.demo"]
    with subprocess.Popen(command, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux reports the end of a terminal as an error
        return b""


def main() -> None:
    """Write the picture beside this file, without the key, which works nowhere else."""
    text = re.sub(r"sk-bud-[\w-]+", "sk-bud-...", recorded())
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(f"$ make demo\n{text}"))
    picture = console.export_svg(title="make demo")
    without_downloads = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    Path(__file__).with_name("demo.svg").write_text(without_downloads, encoding="utf-8")


if __name__ == "__main__":
    main()
