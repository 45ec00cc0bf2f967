"""Runs the demonstration without the other commands' extra: `python -m bud_asgi.cli.demo`."""

from bud_asgi.cli.commands import demo

demo(prog_name="python -m bud_asgi.cli.demo")
