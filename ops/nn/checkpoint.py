"""Parameters in a file: saved under their paths, and compared name by name with the model before any is loaded."""

import os
from collections.abc import Mapping
from typing import Any

from shoal.errors import CheckpointError
from shoal.ops.nn.parameter import Parameter
from shoal.ops.tensorfile import load_tensors, save_tensors

__all__ = ["load", "save"]

SHOWN = 8
"""How many differences of a kind a message lists."""


def save(
    filename: str | os.PathLike[str], params: Mapping[str, Parameter], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the values of ``params`` under their names.

    Raises:
        CheckpointError: the disk refuses.
        DeferredInitializationError: a parameter has no value yet.
    """
    save_tensors(filename, {name: param.data() for name, param in params.items()}, metadata)


def load(
    filename: str | os.PathLike[str],
    params: Mapping[str, Parameter],
    *,
    who: str,
    allow_missing: bool = False,
    ignore_extra: bool = False,
    cast_dtype: bool = False,
) -> None:
    """Overwrite ``params`` with the values of a file; either all that are wanted or none.

    Args:
        who: what messages call the model.
    Raises:
        CheckpointError: the file cannot be read, or does not fit; lists every parameter that differs.
    """
    values, _ = load_tensors(filename)
    problems = [
        *([] if allow_missing else _named("the file lacks", sorted(set(params) - set(values)))),
        *([] if ignore_extra else _named("the model lacks", sorted(set(values) - set(params)))),
        *_misfits(params, values, cast_dtype),
    ]
    if problems:
        raise CheckpointError(
            f"{os.fspath(filename)!r} does not fit {who}: {'; '.join(problems)}. "
            "Build the model that was saved, or pass allow_missing / ignore_extra / cast_dtype."
        )
    for name, param in params.items():
        if name in values:
            param.set_data(values[name])


def _named(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what} {', '.join(map(repr, names[:SHOWN]))}{more}"] if names else []


def _misfits(params: Mapping[str, Parameter], values: Mapping[str, Any], cast_dtype: bool) -> list[str]:
    found = []
    for name, param in params.items():
        value = values.get(name)
        if value is None:
            continue
        if not param.accepts(value.shape):
            found.append(f"{name!r} has shape {param.shape} in the model and {value.shape} in the file")
        elif value.dtype != param.dtype and not cast_dtype:
            found.append(f"{name!r} has dtype {param.dtype} in the model and {value.dtype} in the file")
    return found[:SHOWN] + ([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])
