"""The terminal client. Knows the wire, and nothing of the server."""
