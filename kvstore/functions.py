"""Functions that run where the values are: by a registered name, with plain data; never code from the network.

::

    @shoal.kv.server_function("sum-of-squares")
    def sum_of_squares(part):
        return float(part.value @ part.value)

in a plug-in that every process loads (``shoal run --plugin FILE``); then ``kv.call("sum-of-squares", "weight")`` gives
one number for each slice of the key. ``docs/control.md`` has more.
"""

import difflib
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, RemoteError, ShoalError, lacking
from shoal.kvstore.wire.messages import CallPart
from shoal.kvstore.wire.schema import Plain

__all__ = ["Function", "PartView", "find", "names", "plain", "remote_text", "run", "server_function"]

MAX_RESULT_BYTES = 1 << 20
"""What one call may return from one server, roughly."""

MAX_TRACEBACK = 8000
"""Characters of a traceback that travel: its end, where the cause is."""


@dataclass(slots=True)
class PartView:
    """A part of a key as a function sees it: elements ``start:stop`` of the flattened key, which lie in one slice.

    Args:
        key: its name.
        value: flat; writable if the function was registered with ``writes=True``.
        state: of the optimizer, flat arrays by name (``"master"`` is the float32 master of a half-precision key).
        version: updates that the slice has had.
        clock: contributions that every worker has made to it.
    """

    key: str
    start: int
    stop: int
    value: NDArray[Any]
    state: Mapping[str, NDArray[Any]]
    version: int
    clock: int


Body: TypeAlias = Callable[..., Plain]
B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Function:
    """A registered function."""

    name: str
    body: Body
    writes: bool


_FUNCTIONS: dict[str, Function] = {}


def server_function(name: str, *, writes: bool = False) -> Callable[[B], B]:
    """Decorator: make a function known as ``name`` in every process that loads its file.

    It is called with a `PartView` and the call's arguments, once for each part, on the server's own thread: while it
    runs, that server serves nobody. It returns plain data: None, numbers, text, lists and dictionaries of them; NumPy
    numbers and arrays become such.

    Args:
        writes: it may write to value and state. All workers then make the call together, and it is run once.
    Raises:
        ConfigError: the name cannot be one, or another function has it.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ConfigError(f"a server function's name is lower-case letters, digits, - and _, got {name!r}")

    def declare(body: B) -> B:
        other = _FUNCTIONS.get(name)
        if other is not None and other.body.__qualname__ != body.__qualname__:
            raise ConfigError(
                f"server function {name!r} is already {other.body.__module__}.{other.body.__qualname__}: rename one"
            )
        _FUNCTIONS[name] = Function(name, body, writes)
        return body

    return declare


def names() -> list[str]:
    """The known names, sorted."""
    return sorted(_FUNCTIONS)


def find(name: str, where: str = "here") -> Function:
    """The function of this name.

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    if name not in _FUNCTIONS:
        near = difflib.get_close_matches(str(name), names(), 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"no server function is called {name!r} {where}; known: {', '.join(names()) or 'none'}.{hint} Start every "
            f"process with the file that has @shoal.kv.server_function({name!r}): shoal run --plugin FILE"
        )
    return _FUNCTIONS[name]


def run(
    function: Function, part: CallPart, value: NDArray[Any], state: Mapping[str, NDArray[Any]], **seen: Any
) -> Plain:
    """What the function returns for one part of a slice.

    Args:
        value, state: of the slice.
        seen: version and clock, and ``args``, the call's arguments.
    Raises:
        Exception: whatever the function raises.
        ConfigError: what it returned is not plain data.
    """
    there = slice(part.offset, part.offset + part.stop - part.start)
    arrays = {n: _view(a, there, function.writes) for n, a in {**state, "": value}.items()}
    own = arrays.pop("")
    view = PartView(part.key, part.start, part.stop, own, arrays, seen["version"], seen["clock"])
    result = function.body(view, **seen["args"])
    if view.value is not own:
        raise ConfigError(f"server function {function.name!r} replaced part.value: write into it, part.value[...] = x")
    return plain(result, f"server function {function.name!r}")


def _view(array: NDArray[Any], there: slice, writes: bool) -> NDArray[Any]:
    view = array.reshape(-1)[there]
    view.flags.writeable = writes and array.flags.writeable
    return view


def plain(value: Any, who: str) -> Plain:
    """``value`` as plain data.

    Raises:
        ConfigError: it cannot be, or is too much.
    """
    made, size = _plain(value, who, 0)
    if size > MAX_RESULT_BYTES:
        raise ConfigError(f"{who} gives about {size} bytes; at most {MAX_RESULT_BYTES} travel. Pull the key instead")
    return made


def _plain(value: Any, who: str, depth: int) -> tuple[Plain, int]:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or type(value) in (bool, int, float, str):
        return value, len(value) if isinstance(value, str) else 8
    if depth < 6 and isinstance(value, list | tuple):
        found = [_plain(v, who, depth + 1) for v in value]
        return [v for v, _ in found], sum(n for _, n in found) + 8
    if depth < 6 and isinstance(value, Mapping) and all(type(k) is str for k in value):
        pairs = {k: _plain(v, who, depth + 1) for k, v in value.items()}
        return {k: v for k, (v, _) in pairs.items()}, sum(n + len(k) for k, (_, n) in pairs.items()) + 8
    raise ConfigError(
        f"{who}: expected None, numbers, text, lists and dictionaries of them, got {type(value).__name__}"
    )


def remote_text(error: BaseException, what: str) -> tuple[str, str]:
    """Name of the error class that the requester raises, and its text, which ends with this process's traceback."""
    lines = "".join(traceback.format_exception(error)).rstrip()
    name = type(error).__name__ if isinstance(error, ShoalError) else RemoteError.__name__
    cut = "...\n" if len(lines) > MAX_TRACEBACK else ""
    return name, f"{what}: {type(error).__name__}: {lacking(error)}\n{cut}{lines[-MAX_TRACEBACK:]}"
