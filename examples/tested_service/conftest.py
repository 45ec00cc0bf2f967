"""What the tests of this service share."""

import main
import pytest

from bud_asgi import MessagesApp


@pytest.fixture
def bud_app() -> MessagesApp:
    """Return the app whose providers the tests replace."""
    return main.messages
