"""`--version`: what a bug report has to contain."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from bud_asgi import __version__

_REQUIRED = ("starlette", "msgspec", "httptools", "aiohappyeyeballs")
_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "server": ("uvicorn", "uvloop", "click"),
    "bedrock": ("botocore",),
    "vertex": ("google-auth",),
    "redis": ("redis", "hiredis"),
    "postgres": ("psycopg",),
    "jwt": ("joserfc",),
    "prometheus": ("prometheus-client",),
    "httpx": ("httpx", "httpx2"),
    "testing": ("trustme",),
    "demo": ("anthropic",),
}
"""The libraries that each extra brings, or that take their place."""


def version_text() -> str:
    """Return the versions of the package, of Python and of what it runs on, and of the libraries of each extra."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    lines = [f"bud-asgi {__version__}", f"{'python':<10} {python}, {platform.platform()}"]
    lines.append(f"{'requires':<10} {', '.join(_found(_REQUIRED))}")
    lines += [f"{extra:<10} {', '.join(_found(names)) or 'not installed'}" for extra, names in _EXTRAS.items()]
    return "\n".join(lines)


def _found(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
