"""A gateway over a key store, in a process of its own: `python keys_server.py STORE UPSTREAM`. Prints its URL."""

from __future__ import annotations

import signal
import sys

from support.calls import UPSTREAM_KEY
from support.serving import serving

from bud_asgi import Anthropic, ApiKeys, MessagesApp
from bud_asgi.auth import FirstOf, KeyTiming, SqlKeyStore, Throttle

FRESH = 0.5
"""Seconds for which the result of a lookup is used."""


def main(store: str, upstream: str) -> None:
    """Serve until SIGTERM."""
    keys = ApiKeys(store=SqlKeyStore(store, timeout=10.0), timing=KeyTiming(fresh=FRESH, timeout=10.0, note_every=0.3))
    auth = FirstOf([keys], throttle=Throttle(failures=1_000_000))
    app = MessagesApp(auth=auth, providers=[Anthropic(api_key=UPSTREAM_KEY, base_url=upstream)])
    with serving(app, lifespan="on") as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main(*sys.argv[1:])
