"""`tests/clients` needs Node.js, so it runs only when it is named: `make test-clients`."""

import pytest

pytest.register_assert_rewrite("support")

collect_ignore = ["clients"]
