"""Commands: so far the demo, `python -m bud_asgi.cli.demo`."""
