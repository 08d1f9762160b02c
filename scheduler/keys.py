"""Whether a declaration of keys fits what the run has settled on. Pure: a verdict with its reason."""

from collections.abc import Callable
from math import prod

from shoal.errors import ConfigError, lacking
from shoal.kvstore.gates import canonical_mode, mode_label
from shoal.kvstore.placement import CUTS
from shoal.kvstore.wire.messages import Declare, KeyLayout, KeySpec, Placed, Refused
from shoal.kvstore.wire.packed import MAX_DIMENSIONS
from shoal.kvstore.wire.schema import ITEM_BYTES
from shoal.scheduler.gather import ALLREDUCE, unreachable
from shoal.scheduler.log import ClusterState, Declared, Node, Record, describe

__all__ = ["Objection", "declared", "new_keys", "objection"]

Objection = tuple[str, str]
"""Name of the error class that the worker raises, and its text."""

MAX_KEYS = 1_000_000

MAX_STORES = 1024

MAX_NAME = 1024
"""Characters of a key's name."""

MAX_BYTES = 1 << 42
"""Of all values of a run. A larger size is a mistake, or malice: its slices alone would fill this process's memory."""


def objection(state: ClusterState, mode: str, by: str, m: Declare) -> Objection | None:
    """Why worker ``by`` may not declare this; None when it may.

    Args:
        mode: the run's gate if the run was started with one, or "".
        by: the worker, as `shoal.scheduler.log.describe` names it.
    """
    wrong = _wrong_store(state, mode, by, m) or _excess(m.keys, by)
    wrong = wrong or next((w for spec in m.keys if (w := _wrong_key(state, by, spec))), None)
    return wrong or _contradiction(m.keys, by) or _too_large(state, m.keys, by)


def declared(
    state: ClusterState, mode: str, node: Node, m: Declare, commit: Callable[[Record], None]
) -> Placed | Refused:
    """What a worker is answered that declares keys; new ones are written to the log."""
    by = describe(node.member)
    if node.member.role != "worker" or state.phase == "gathering":
        text = "only workers declare keys, and only after the run has begun"
        return Refused(seq=m.request, error="LocalProtocolError", text=text)
    wrong = objection(state, mode, by, m)
    if wrong:
        return Refused(seq=m.request, error=wrong[0], text=wrong[1])
    new = new_keys(state, m.keys)
    if new or m.store not in state.stores:
        commit(Declared(by, canonical_mode(m.gate), m.reduce, new, m.store, m.private))
    layouts = state.placement.layouts
    asked = [spec.key for spec in m.keys] or list(layouts)  # who names none asks what there is
    return Placed(request=m.request, layouts=tuple(layouts[key] for key in asked))


def _excess(keys: tuple[KeySpec, ...], by: str) -> Objection | None:
    """What is too long to be looked at more closely."""
    for spec in keys:
        if len(spec.key) > MAX_NAME:
            return (
                "ConfigError",
                f"{by} declares a key whose name has {len(spec.key)} characters; at most {MAX_NAME} are taken",
            )
        if len(spec.shape) > MAX_DIMENSIONS:
            return (
                "ShapeError",
                f"{by} declares {spec.key!r} with {len(spec.shape)} dimensions; at most {MAX_DIMENSIONS}",
            )
    return None


def _too_large(state: ClusterState, keys: tuple[KeySpec, ...], by: str) -> Objection | None:
    nbytes = sum(prod(spec.shape) * ITEM_BYTES[spec.dtype] for spec in new_keys(state, keys))
    if sum(state.placement.load_bytes) + nbytes > MAX_BYTES:
        return "ConfigError", f"{by} declares keys with which the run's values have more than {MAX_BYTES} bytes"
    return None


def new_keys(state: ClusterState, keys: tuple[KeySpec, ...]) -> tuple[KeySpec, ...]:
    """Those that nobody has declared yet, each once, in order."""
    return tuple({spec.key: spec for spec in keys if spec.key not in state.placement.layouts}.values())


def _wrong_store(state: ClusterState, mode: str, by: str, m: Declare) -> Objection | None:
    try:
        gate = canonical_mode(m.gate)
    except ConfigError as e:
        return "ConfigError", f"{by} creates a store: {lacking(e, 'the scheduler')}"
    if m.reduce not in ("mean", "sum"):
        return "ConfigError", f"{by} reduces by {m.reduce!r}; known: 'mean', 'sum'"
    theirs = mode_label(gate)
    if mode and gate != mode and not m.private:
        return "ConfigError", (
            f"the run was started with --mode {mode_label(mode)}, but the script of {by} creates a store of mode "
            f"{theirs}. Start the run with --mode {theirs}, or let the script take its mode from the run."
        )
    if wrong := _wrong_place(state, gate, theirs, by):
        return "ConfigError", wrong
    if not 1 <= m.store <= MAX_STORES:
        return "ConfigError", f"{by} numbers a store {m.store}; stores are numbered from 1 to at most {MAX_STORES}"
    known = state.stores.get(m.store)
    if known is not None and (gate, m.reduce) != (known.gate, known.reduce):
        return "ConfigError", (
            f"{by} creates store {m.store} of mode {theirs} that reduces by {m.reduce}; {known.by} created it of mode "
            f"{mode_label(known.gate)} that reduces by {known.reduce}. All workers must create the same stores, in the "
            "same order."
        )
    if len(state.placement.layouts) + len(m.keys) > MAX_KEYS:
        return "ConfigError", f"{by} declares more than {MAX_KEYS} keys"
    return None


def _wrong_place(state: ClusterState, gate: str, label: str, by: str) -> str:
    """Why this run has no place for a store of this gate; empty if it has."""
    if gate == ALLREDUCE:
        return unreachable(node.member for node in state.nodes.values() if node.member.role == "worker")
    if state.servers:
        return ""
    return (
        f"the script of {by} creates a store of mode {label}, but the run has no servers to hold it. Start the run "
        "with -s 1, or more, or let the script take its mode from the run."
    )


def _wrong_key(state: ClusterState, by: str, spec: KeySpec) -> Objection | None:
    if spec.dtype not in ITEM_BYTES:
        return "DTypeError", f"{by} declares {spec.key!r} with dtype {spec.dtype!r}; known: {' '.join(ITEM_BYTES)}"
    if any(n < 0 for n in spec.shape):
        return "ShapeError", f"{by} declares {spec.key!r} with shape {spec.shape}: a size cannot be negative"
    if spec.cut not in CUTS:
        return "ConfigError", f"{by} wants {spec.key!r} cut by {spec.cut!r}; known: {', '.join(map(repr, CUTS))}"
    known = state.placement.layouts.get(spec.key)
    return _mismatch(known, state.declared_by[spec.key], spec, by) if known else None


def _contradiction(keys: tuple[KeySpec, ...], by: str) -> Objection | None:
    seen: dict[str, KeySpec] = {}
    for spec in keys:
        first = seen.setdefault(spec.key, spec)
        if wrong := _mismatch(first, f"the same call of {by}", spec, by):
            return wrong
    return None


def _mismatch(known: KeyLayout | KeySpec, first: str, spec: KeySpec, by: str) -> Objection | None:
    advice = "All workers must build the same model: compare their layers and their dtypes."
    if known.shape != spec.shape:
        return "ShapeError", (
            f"{by} declares {spec.key!r} with shape {spec.shape}; {first} declared it with shape {known.shape}. "
            f"{advice}"
        )
    if known.dtype != spec.dtype:
        return "DTypeError", (
            f"{by} declares {spec.key!r} with dtype {spec.dtype}; {first} declared it with dtype {known.dtype}. "
            f"{advice}"
        )
    if known.cut != spec.cut:
        return "ConfigError", (
            f"{by} declares {spec.key!r} to be cut {spec.cut or 'by bytes'!r}; {first} declared it to be cut "
            f"{known.cut or 'by bytes'!r}. All workers must call init with the same options."
        )
    return None
