"""SECURITY.md names the tests of each promise."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
TEXT = (FOLDER.parent.parent / "SECURITY.md").read_text()


def test_every_file_of_tests_belongs_to_a_promise_and_every_name_to_a_file() -> None:
    promises = TEXT.partition("## Promises")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", promises))
    assert named == {file.stem for file in FOLDER.glob("test_*.py")} - {Path(__file__).stem}
