"""What msgspec raises for JSON that cannot be decoded."""

from __future__ import annotations

import msgspec

MALFORMED_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The errors of `msgspec.json.decode` for malformed or unexpected JSON, invalid UTF-8 and too deep nesting."""
