"""The history of a target as a small picture."""

from __future__ import annotations

from collections.abc import Sequence

from bud_asgi.status.markup import Html, seconds

WIDTH, HEIGHT = 120, 24
_TOP, _BOTTOM = 2, 18
_LONGEST_GAP = 3
"""Steps: a line goes on over so many. A value on its own is a dot."""


def sparkline(values: Sequence[float | None], failed: Sequence[int]) -> Html:
    """A line through the values, broken where several are missing, with a mark below each step with failures."""
    known = [value for value in values if value is not None]
    most = max(known, default=0.0)
    step = WIDTH / max(len(values), 1)
    path, last = "", -_LONGEST_GAP - 1
    for index, value in enumerate(values):
        if value is not None:
            y = _BOTTOM - (_BOTTOM - _TOP) * (value / most if most else 0.0)
            joins = index - last <= _LONGEST_GAP
            path += f"{'L' if joins else 'M'}{(index + 0.5) * step:.0f} {y:.1f}{'' if joins else 'h.1'}"
            last = index
    marks = "".join(
        f'<rect x="{index * step:.0f}" y="20" width="2" height="4"/>' for index, n in enumerate(failed) if n
    )
    label = f"time to the first event: at most {seconds(most)}" if known else "no events"
    if any(failed):
        label += f", {sum(failed)} failed"
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<path d="{path}"/>{marks}</svg>'
    )
