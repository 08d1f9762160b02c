"""The worker's half of the store."""
