"""What all tests share: the certificate authority that the system trusts, and the garbage collector.

`tests/clients` needs Node.js, so it runs only when it is named: `make test-clients`.
"""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest
import trustme

pytest.register_assert_rewrite("support")

collect_ignore = ["clients"]

gc.disable()  # until all is collected: hardly any of it is garbage


def pytest_configure(config: pytest.Config) -> None:
    """Make one authority the system's: to read the 150 real ones takes 20 ms for each of thousands of contexts.

    No test reaches a server of the internet. Processes that a test starts read the same file.
    """
    folder = tempfile.TemporaryDirectory(prefix="authority-")
    config.add_cleanup(folder.cleanup)
    file = Path(folder.name, "authority.pem")
    trustme.CA().cert_pem.write_to_path(file)
    os.environ["SSL_CERT_FILE"] = str(file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first: at the end, most workers would wait for them."""
    items.sort(key=lambda item: "sdk" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end; without this, every full collection of garbage walks them, for 0.2 s."""
    gc.enable()
    gc.freeze()
