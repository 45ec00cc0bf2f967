"""Takes the pictures of the status page in the docs: `python tests/clients/status_screenshots.py`.

The requests are real, to stand-ins. Only the clock of the page's history is moved, so that they fill ten minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from browser import browser  # noqa: E402 - the folder of the helpers has to be known first
from support.busy import OPERATOR, Busy, busy, fail, streams  # noqa: E402

from bud_asgi.testing import error, late, text  # noqa: E402
from bud_asgi.testing.anthropic.messages import Usage  # noqa: E402

CALLERS = (("ci", "platform"), ("web-frontend", "product"), ("nightly-evals", "research"), ("support-bot", "product"))
PICTURES = {"wide-light": (1280, 1130, False), "wide-dark": (1280, 1130, False), "phone": (390, 844, True)}
REQUESTS = 160


def work(here: Busy) -> None:
    """Send requests of several callers, as if over ten minutes."""
    activity = here.messages._status.activity
    for number in range(REQUESTS):
        activity._clock = lambda behind=600.0 * (1 - number / REQUESTS): time.time() - behind
        name, team = CALLERS[number * number % 7 % 4]
        seconds = 0.02 + 0.03 * (number * 7919 % 97) / 97 + (0.06 if 70 < number < 90 else 0.0)
        reply = text("Hello", usage=Usage(input_tokens=900 + number * 31 % 700, output_tokens=80 + number % 90))
        for upstream in here.upstreams.values():
            upstream.always(late(seconds, reply))
        here.post(name, ("claude-haiku-4-5", "fast")[number % 5 == 0], team=team, messages=conversation(number))
        if number == REQUESTS // 2:
            fail(here)
    activity._clock = time.time
    here.upstreams["backup"].always(error(529, "overloaded_error", "Overloaded", headers={"retry-after": "60"}))
    for _ in range(5):
        here.post("batch-jobs", "batch")  # the breaker of its other target opens


def conversation(number: int) -> list[dict[str, str]]:
    """A conversation of its own, so that its home is at any of the targets."""
    return [{"role": "user", "content": f"Question {number}"}]


def main(folder: Path) -> None:
    """Write the pictures into a folder."""
    folder.mkdir(exist_ok=True)
    with busy() as here, tempfile.TemporaryDirectory() as profile:
        work(here)
        with streams(here, 4, [name for name, _ in CALLERS]), browser(Path(profile)) as tab:
            credentials = b64encode(f":{OPERATOR}".encode()).decode()
            tab.call("Network.setExtraHTTPHeaders", headers={"authorization": f"Basic {credentials}"})
            for name, (width, height, phone) in PICTURES.items():
                tab.resize(width, height, phone=phone)
                tab.prefer("dark" if "dark" in name else "light")
                tab.open(f"{here.url}/status/")
                (folder / f"{name}.png").write_bytes(tab.screenshot())


if __name__ == "__main__":
    main(ROOT / "docs/status")
