"""Symbolic graphs: trace, passes, buffer plan, executor."""
