"""Layers, parameters, losses and initializers (Gluon's names)."""
