"""Data sets, deterministic sharding and batches."""
