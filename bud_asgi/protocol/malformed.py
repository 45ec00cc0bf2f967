"""What decoding untrusted JSON can raise."""

from __future__ import annotations

import msgspec

MALFORMED_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The exceptions of a msgspec decode of bytes that are not valid JSON, not UTF-8, or nested too deeply."""
