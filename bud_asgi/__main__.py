"""Makes `python -m bud_asgi` the same as `bud-asgi`."""

from bud_asgi.cli import main

if __name__ == "__main__":  # a worker process imports this file again, under another name
    main()
