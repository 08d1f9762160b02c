"""The server's half of the store."""
