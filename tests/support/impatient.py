"""A credential of a cloud that gives up soon, where a test lets the source of its keys hang."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from bud_asgi.providers.bedrock.credential import AwsCredential
from bud_asgi.providers.vertex.credential import GoogleCredential


@contextmanager
def impatient(credential: AwsCredential | GoogleCredential, timeout: float) -> Generator[None]:
    """Wait only so many seconds for a fetch inside the block: any other fetch may take long on a busy machine."""
    usual = credential._timing
    credential._timing = credential._refresher._timing = msgspec.structs.replace(usual, timeout=timeout)
    try:
        yield
    finally:
        credential._timing = credential._refresher._timing = usual
