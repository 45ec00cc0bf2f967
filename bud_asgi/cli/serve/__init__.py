"""`serve`: the server, its options, its workers, and what surrounds it."""
