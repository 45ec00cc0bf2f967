"""The stand-in server: connections, replies and faults, whichever service it stands in for."""
