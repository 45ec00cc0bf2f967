"""The wire formats of the Messages API: bodies, headers, errors, event streams, usage. No I/O."""
