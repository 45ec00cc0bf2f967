"""The contract that clients rely on, row by row, and proxies that bend it to show that each row's test would notice."""
