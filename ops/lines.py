"""The user's line: where in the code of the user an operator was called.

The innermost frame of the stack that belongs neither to this package nor to NumPy. A `Place` is cheap to take; it
becomes a file, a line and its text only when somebody asks for that.
"""

import dis
import linecache
import sys
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, TypeAlias

__all__ = ["Place", "called_by_user", "here", "noted", "said", "text", "updates_part", "user_line"]

Place: TypeAlias = tuple[CodeType, int]
"""The code of a function, and the instruction in it."""

_PACKAGE = __name__.partition(".")[0]
_OURS: set[int] = set()
"""Ids of the globals of our modules, as far as they were met; modules are never freed."""


def frame_of_user(frame: FrameType | None) -> FrameType | None:
    """The first frame from ``frame`` outwards that is not ours."""
    while frame is not None:
        variables = frame.f_globals
        if id(variables) not in _OURS:
            module = str(variables.get("__name__", "")).partition(".")[0]
            if module != _PACKAGE and module != "numpy":
                return frame
            _OURS.add(id(variables))
        frame = frame.f_back
    return None


def here() -> Place | None:
    """Where the user is now."""
    frame = frame_of_user(sys._getframe(1))
    return None if frame is None else (frame.f_code, frame.f_lasti)


def text(place: Place | None) -> str:
    """``file:line, in function: `source line` ``; "" if there is no place."""
    if place is None:
        return ""
    code, instruction = place
    line = next((p[0] for i, p in enumerate(code.co_positions()) if i == instruction // 2), None)
    return _described(code, line or code.co_firstlineno, None)


@lru_cache(maxsize=4096)  # of the loops of a model; reading a long function takes half a millisecond
def updates_part(code: CodeType, at: int) -> bool:
    """Whether the instruction at ``at`` is the sum of ``x[i] += y``, whose result goes to ``x[i]``, and not to a name.

    The bytecode says it: the operator is followed by the store, and by nothing else than what reorders the stack.
    """
    rest = [i.opname for i in dis.get_instructions(code) if i.offset >= at and i.opname != "SWAP"]
    return rest[:1] == ["BINARY_OP"] and rest[1] in ("STORE_SUBSCR", "STORE_SLICE")


def called_by_user() -> bool:
    """Whether the function that asks was called by the user's code, and not by ours."""
    frame = sys._getframe(2)
    return frame_of_user(frame) is frame


def user_line() -> str:
    """The line in which the user is now, as `text` gives it; "this code" if all of the stack is ours."""
    frame = frame_of_user(sys._getframe(1))
    return "this code" if frame is None else _described(frame.f_code, frame.f_lineno, frame.f_globals)


def said(node: Any) -> str:
    """``, called at ...`` for a node of the tape or of a graph that knows its line; else nothing."""
    found = text(getattr(node, "line", None))
    return f", called at {found}" if found else ""


def noted(error: BaseException, note: str) -> None:
    """Add ``note`` below the message of ``error``, unless an inner frame has said where it was already."""
    if not getattr(error, "_has_place", False):
        error.add_note(note)
        try:
            error._has_place = True  # type: ignore[attr-defined]  # any exception takes attributes
        except AttributeError:  # but for those that have slots
            return


def _described(code: CodeType, line: int, variables: dict[str, Any] | None) -> str:
    source = linecache.getline(code.co_filename, line, variables).strip()
    place = f"{code.co_filename}:{line}, in {code.co_name}"
    return f"{place}: `{source}`" if source else f"{place}: this line"  # typed in, or from a string: no text
