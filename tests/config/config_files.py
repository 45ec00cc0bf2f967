"""A whole file, and a way to change a part of it."""

from __future__ import annotations

from pathlib import Path

HASH = "sha256:cf277ebcc1b2c74c0cd9ca18c359aa43bb13815efc75f04ec1e5ecdd6d060f24"
OTHER_HASH = "sha256:b8333af2170a90914d19d9dcf5a6a7ef71cc768440f31238d9b13924f7e5be76"
ENVIRON = {"ANTHROPIC_API_KEY": "sk-ant-CANARY"}

PROVIDER = """
[providers.anthropic]
kind = "anthropic"
api_key = "env:ANTHROPIC_API_KEY"
"""
KEYS = f"""
[[keys]]
name = "ci"
hash = "{HASH}"
"""
ROUTES = """
[[routes]]
model = "fast"
to = [{ provider = "anthropic", model = "claude-haiku-4-5" }]

[[routes]]
model = "claude-*"
to = ["anthropic"]
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "gateway.toml"
    file.write_text(text)
    return file
