"""How much memory this process may use: by its control group, or by its resource limit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60
"""Version 1 control groups report a value near 2**63 if there is no limit."""


def memory_limit(root: Path = Path("/")) -> int | None:
    """The smallest limit on the memory of this process, in bytes; `None` if there is none, or none can be found.

    Looks at the control group (`memory.max` of version 2, `memory.limit_in_bytes` of version 1), its parents, and
    `RLIMIT_AS`. `root` is the root of the file system.
    """
    limits = [limit for limit in (*_group_limits(root), _address_space()) if limit is not None and limit < _UNLIMITED]
    return min(limits, default=None)


def _group_limits(root: Path) -> Iterator[int | None]:
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield from _limits_upwards(mounted, group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_upwards(mounted / "memory", group, "memory.limit_in_bytes")


def _limits_upwards(mounted: Path, group: str, name: str) -> Iterator[int | None]:
    """The limits of a group and of its parents. In a container, the group may be mounted as the root."""
    path = PurePosixPath("/", group).relative_to("/")
    for folder in (path, *path.parents):
        text = _read(mounted / folder / name).strip()
        yield int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _address_space() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
