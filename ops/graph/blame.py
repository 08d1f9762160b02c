"""Errors of tracing that point at the user's line: where the model asked for what a graph cannot give."""

import linecache
import sys
from types import FrameType
from typing import Any, NoReturn

from shoal.errors import GraphError

__all__ = ["cannot", "needs_value", "user_line"]

_PACKAGE = __name__.partition(".")[0]


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


def user_line() -> str:
    """The innermost line of the stack that is not in this package: file, line, function and text."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    if frame is None:
        return "this code"
    code = frame.f_code
    text = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    place = f"{code.co_filename}:{frame.f_lineno}, in {code.co_name}"
    return f"{place}: `{text}`" if text else f"{place}: this line"  # typed in, or from a string: no text


def _is_ours(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return module == _PACKAGE or module == "numpy"
