"""Optional dependencies: what the package needs for some of its features, installed as extras."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtra(ImportError):
    """A feature needs a library that is not installed; the message has the command that installs it."""


def install_command(extra: str) -> str:
    """Return how to install an extra. The package is not on an index yet, so its name is not used."""
    return f"pip install '.[{extra}]' in a checkout of bud_asgi"


def is_installed(module: str) -> bool:
    """Whether `module` can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name
        return False


def require(feature: str, module: str, extra: str) -> None:
    """Check that `module` is installed. Raises `MissingExtra`."""
    if not is_installed(module):
        message = f"{feature} needs {module}, which is not installed: {install_command(extra)}"
        raise MissingExtra(message, name=module)
