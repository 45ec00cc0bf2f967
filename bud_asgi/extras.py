"""Optional dependencies: what the package needs for some of its features, installed as extras."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtra(ImportError):
    """A feature needs a library that is not installed; the message has the command that installs it."""


def require(feature: str, module: str, extra: str) -> None:
    """Check that `module` can be imported, without importing it. Raises `MissingExtra`."""
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name
        found = False
    if not found:
        install = f"pip install 'bud-asgi[{extra}]' (in a checkout of bud_asgi: pip install '.[{extra}]')"
        raise MissingExtra(f"{feature} needs {module}, which is not installed: {install}", name=module)
