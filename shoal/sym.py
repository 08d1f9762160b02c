"""Symbols: graphs that are composed by hand, traced from models, saved and loaded."""

from shoal.ops.graph.compose import Group, fromjson, gradient, load, var
from shoal.ops.graph.symbol import Symbol

__all__ = ["Group", "Symbol", "fromjson", "gradient", "load", "var"]
