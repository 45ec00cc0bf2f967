"""Limits over real sockets: what clients get, what reaches the upstream, and what is booked."""
