"""The memory limit of the process: of its control group in both versions, and of its parents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bud_asgi import memory_limit
from bud_asgi.memory_limit import memory_limit as find

GROUPS: dict[str, tuple[Mapping[str, str], int | None]] = {
    "nothing": ({}, None),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n"}, 1000),
    "version 2, without a limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
    "version 2, a service": (
        {
            "proc/self/cgroup": "0::/system.slice/x.service\n",
            "sys/fs/cgroup/system.slice/x.service/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/memory.max": "5000\n",
        },
        5000,
    ),
    "version 2, its parent has less": (
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "7\n", "sys/fs/cgroup/a/memory.max": "5\n"},
        5,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:cpu,memory:/docker/abc\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000\n",
        },
        2000,
    ),
    "version 1, without a limit": (
        {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"},
        None,
    ),
    "nonsense": ({"proc/self/cgroup": "x\n\n0::\n", "sys/fs/cgroup/memory.max": "lots"}, None),
}


@pytest.mark.parametrize(("files", "expected"), GROUPS.values(), ids=GROUPS.keys())
def test_the_limit_of_the_control_group(
    files: Mapping[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "_address_space", lambda: None)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert find(tmp_path) == expected


def test_the_limit_of_the_address_space_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "_address_space", lambda: 77)
    assert find(tmp_path) == 77
