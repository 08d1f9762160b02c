"""Faults on purpose: a file says what goes wrong, when and to whom; off unless asked for."""
