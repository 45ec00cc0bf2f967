"""What needs Node.js runs when it is named: `make test-clients`."""

collect_ignore = ["clients"]
