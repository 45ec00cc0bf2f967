"""What the bytes mean: bodies, headers, errors, event streams, usage. No I/O; imports nothing above it."""
