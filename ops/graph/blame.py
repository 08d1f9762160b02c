"""Errors of tracing that point at the user's line: where the model asked for what a graph cannot give."""

from typing import Any, NoReturn

from shoal.errors import GraphError
from shoal.ops.lines import user_line

__all__ = ["cannot", "needs_value", "user_line"]


def needs_value(symbol: Any, what: str) -> NoReturn:
    """Raise: the code asks for the numbers of a symbol.

    Raises:
        GraphError: always; names the line, the symbol and what to write instead.
    """
    raise GraphError(
        f"{user_line()} needs {what} of {symbol!r}, but a hybridized model is traced with symbols, which have a shape "
        "and no values. Use where() for a choice between values; or move the line out of the hybridized "
        "block; or hybridize(strict=False), which then runs this block imperatively."
    )


def cannot(symbol: Any, what: str, instead: str) -> NoReturn:
    """Raise: the code does with a symbol what a graph has no operator for."""
    raise GraphError(f"{user_line()} {what} {symbol!r}, which a graph cannot express. {instead}")
