"""The status page: what an operator looks at first, as one HTML document and as JSON. Read only, off by default."""

from bud_asgi.status.page import StatusPage
from bud_asgi.status.report import StatusSource

__all__ = ["StatusPage", "StatusSource"]
