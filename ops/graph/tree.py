"""Nested lists, tuples and dictionaries of values: what `forward` may take and return."""

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["leaves", "mapped", "shape_of"]


def leaves(tree: Any) -> Iterator[Any]:
    """The values in ``tree``, depth first; dictionaries in the order of their keys' insertion."""
    if isinstance(tree, (list, tuple)):
        for x in tree:
            yield from leaves(x)
    elif isinstance(tree, dict):
        for x in tree.values():
            yield from leaves(x)
    else:
        yield tree


def mapped(fn: Callable[[Any], Any], tree: Any) -> Any:
    """``tree`` with ``fn`` of each of its values; the same kinds of containers (a named tuple stays one)."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(fn, x) for x in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(fn, x) for x in tree)
    if isinstance(tree, dict):
        return {k: mapped(fn, x) for k, x in tree.items()}
    return fn(tree)


def shape_of(tree: Any, key: Callable[[Any], Any]) -> Any:
    """A hashable form of the structure of ``tree``, with ``key`` of each of its values."""
    if isinstance(tree, (list, tuple)):
        return (type(tree), *(shape_of(x, key) for x in tree))
    if isinstance(tree, dict):
        return (dict, *((k, shape_of(x, key)) for k, x in tree.items()))
    return key(tree)
