"""Convolution and attention by cuDNN, through ``nvidia-cudnn-frontend``: graphs, plans, and one call to run them.

A graph is built once per signature and kept with its plan. Tensors are given as numbers: shapes and strides when a plan
is made, addresses when it runs; so this module needs no arrays, and plans can be made without a GPU (`make
gpu-plan-check`). Building asks the library, which a recording forbids: run a step once before it is recorded.

Which attention goes to cuDNN is decided by `why_not_attention`: its versions had wrong gradients for some lengths with
a mask (NVIDIA/cudnn-frontend 1072 and 160, pytorch/pytorch 196678), so only the forms that were clean are used.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.gpu.plans import PlanFolder, folder_of
from shoal.ops.precision import BFLOAT16

__all__ = [
    "Attention",
    "Convolution",
    "Dnn",
    "address",
    "attention_graph",
    "channels_last",
    "convolution_graph",
    "described",
    "dnn_of",
    "engine_of",
    "installed",
    "stream_of",
    "why_not_attention",
]

log = logging.getLogger("shoal.gpu")

Shape = tuple[int, ...]
X, WEIGHT, Y = 1, 2, 3
"""Names of a convolution's tensors; their gradients have the same."""
Q, K, V, OUT, TOTAL, DOUT, DQ, DK, DV = range(1, 10)
"""Names of an attention's tensors."""

TYPES: dict[Any, str] = {np.dtype(np.float32): "FLOAT", np.dtype(np.float16): "HALF", BFLOAT16: "BFLOAT16"}


class Convolution(NamedTuple):
    """Images and filters with the channels last in memory: (batch, channels, height, width), and so on.

    Attributes:
        tf32: float32 may be read with 10 bits of mantissa; without it plans that do so are left out.
    """

    x: Shape
    weight: Shape
    y: Shape
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilate: tuple[int, int]
    dtype: Any
    tf32: bool = False


class Attention(NamedTuple):
    """(batch, heads, positions, width) of queries and keys, with strides in elements; the results lie in C order."""

    queries: Shape
    keys: Shape
    q_stride: Shape
    k_stride: Shape
    v_stride: Shape
    dtype: Any
    causal: bool
    scale: float


def channels_last(shape: Shape) -> Shape:
    """Strides in elements of an image with the channels last."""
    _, c, h, w = shape
    return (c * h * w, 1, c * w, c)


def _rows(shape: Shape) -> Shape:
    _, h, s, d = shape
    return (h * s * d, s * d, d, 1)


def _graph(cudnn: Any, dtype: Any, **more: Any) -> Any:
    kinds, single = cudnn.data_type, cudnn.data_type.FLOAT
    io = getattr(kinds, TYPES[dtype])
    return cudnn.pygraph(io_data_type=io, intermediate_data_type=single, compute_data_type=single, **more)


def _built(cudnn: Any, graph: Any, *outputs: Any) -> Any:
    for tensor in outputs:
        tensor.set_output(True)
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    return graph


def convolution_graph(cudnn: Any, part: str, c: Convolution, **more: Any) -> Any:
    """A plan for the forward part, or for the gradient of the "data" or of the "weight".

    Args:
        cudnn: the module.
        more: ``handle``, or ``device_property`` to plan without a GPU.
    """
    graph = _graph(cudnn, c.dtype, **more)
    if TYPES[c.dtype] == "FLOAT" and not c.tf32:  # what cuDNN proposes first for float32 are tensor cores, in TF32
        notes = cudnn.numerical_note
        graph.deselect_numeric_notes([notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS])

    def tensor(uid: int, shape: Shape) -> Any:
        return graph.tensor(uid=uid, dim=list(shape), stride=list(channels_last(shape)))

    how = {"padding": list(c.pad), "stride": list(c.stride), "dilation": list(c.dilate)}
    if part == "forward":
        out = graph.conv_fprop(tensor(X, c.x), tensor(WEIGHT, c.weight), **how)
        uid, shape = Y, c.y
    elif part == "data":
        out = graph.conv_dgrad(loss=tensor(Y, c.y), filter=tensor(WEIGHT, c.weight), **how)
        uid, shape = X, c.x
    else:
        out = graph.conv_wgrad(image=tensor(X, c.x), loss=tensor(Y, c.y), **how)
        uid, shape = WEIGHT, c.weight
    out.set_uid(uid).set_dim(list(shape)).set_stride(list(channels_last(shape)))
    return _built(cudnn, graph, out)


def attention_graph(cudnn: Any, part: str, a: Attention, **more: Any) -> Any:
    """A plan for the forward part, with the logarithms of its sums, or for the "gradient" of queries, keys and values.

    The gradients lie in C order.
    """
    graph = _graph(cudnn, a.dtype, **more)
    shapes = {Q: (a.queries, a.q_stride), K: (a.keys, a.k_stride), V: (a.keys, a.v_stride)}
    given = {u: graph.tensor(uid=u, dim=list(d), stride=list(s)) for u, (d, s) in shapes.items()}
    how = {"attn_scale": a.scale, "use_causal_mask": a.causal}
    b, h, s, _ = a.queries
    single = cudnn.data_type.FLOAT
    sums = {"dim": [b, h, s, 1], "stride": [h * s, s, 1, 1]}
    if part == "forward":
        out, total = graph.sdpa(q=given[Q], k=given[K], v=given[V], generate_stats=True, **how)
        out.set_uid(OUT).set_dim(list(a.queries)).set_stride(list(_rows(a.queries)))
        total.set_uid(TOTAL).set_data_type(single).set_dim(sums["dim"]).set_stride(sums["stride"])
        return _built(cudnn, graph, out, total)
    rows = {"dim": list(a.queries), "stride": list(_rows(a.queries))}
    found = graph.sdpa_backward(
        q=given[Q], k=given[K], v=given[V], o=graph.tensor(uid=OUT, **rows), dO=graph.tensor(uid=DOUT, **rows),
        stats=graph.tensor(uid=TOTAL, data_type=single, **sums), **how,
    )  # fmt: skip
    for tensor, uid, shape in zip(found, (DQ, DK, DV), (a.queries, a.keys, a.keys), strict=True):
        tensor.set_uid(uid).set_dim(list(shape)).set_stride(list(_rows(shape)))
    return _built(cudnn, graph, *found)


def why_not_attention(a: Attention, *, masked: bool = False) -> str:
    """Why an attention is not left to cuDNN; empty if it is."""
    if a.dtype not in (np.dtype(np.float16), BFLOAT16):
        return f"it is of {a.dtype}: cuDNN's is for half precision"
    if masked:
        return "it has a mask of its own"
    if a.queries[2] % 128 or a.keys[2] % 128:
        return f"{a.queries[2]} queries and {a.keys[2]} keys are not multiples of 128"
    if a.causal and a.queries[2] != a.keys[2]:
        return "it is causal, with queries and keys of different numbers"
    if a.queries[3] % 8 or a.queries[3] > 128:
        return f"its width of {a.queries[3]} is not a multiple of 8 up to 128"
    if a.queries[:2] != a.keys[:2] or a.queries[3] != a.keys[3]:
        return "queries and keys differ in batch, heads or width"
    if {a.q_stride[3], a.k_stride[3], a.v_stride[3]} != {1}:
        return "a row of it is not dense"
    return ""


class Dnn:
    """cuDNN on one GPU.

    Args:
        cudnn: the module ``cudnn`` of nvidia-cudnn-frontend.
        room: gives that many bytes of the GPU's memory, as something with ``ptr``; what it gave is kept for good, since
            a recorded step uses it.
        kept: plans on the disk; None keeps none.
    Attributes:
        plans_read: how many came from there.
    """

    def __init__(self, cudnn: Any, room: Callable[[int], Any], kept: PlanFolder | None = None) -> None:
        self.cudnn, self._room, self._folder = cudnn, room, kept
        self.plans_read = 0
        self._handles: dict[int, Any] = {}
        self._plans: dict[Any, Any] = {}
        self._kept: dict[int, list[tuple[int, Any]]] = {}  # by stream, since plans of two may run at once

    def convolve(self, part: str, c: Convolution, where: Mapping[int, int], stream: int) -> None:
        """Run a part of a convolution; ``where`` has the addresses of its tensors."""
        self._run(convolution_graph, part, c, where, stream)

    def attend(self, part: str, a: Attention, where: Mapping[int, int], stream: int) -> None:
        """Run a part of an attention.

        Raises:
            ConfigError: it is of a kind that is not left to cuDNN.
        """
        why = why_not_attention(a)
        if why:
            raise ConfigError(f"attention is not left to cuDNN: {why}")
        self._run(attention_graph, part, a, where, stream)

    def _run(self, build: Callable[..., Any], part: str, what: Any, where: Mapping[int, int], stream: int) -> None:
        handle = self._handles.get(stream)
        if handle is None:
            handle = self._handles[stream] = self.cudnn.create_handle()
            self.cudnn.set_stream(handle, stream)
        key = (part, what, stream)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(build, part, what, handle)
        plan.execute(dict(where), self._workspace(int(plan.get_workspace_size()), stream), handle=handle)

    def _plan(self, build: Callable[..., Any], part: str, what: Any, handle: Any) -> Any:
        """A plan from the disk, if it is there and the library takes it; else built, and kept there."""
        if self._folder is None:
            return build(self.cudnn, part, what, handle=handle)
        key = (part, what)
        known = self._folder.read(key)
        if known is not None:
            plan = self.cudnn.pygraph(handle=handle)
            try:
                plan.deserialize(handle, known)
            except Exception as error:  # of any kind: the library's own; what is built instead is right
                log.warning("a plan of %s is built anew: the one on the disk is refused (%s)", part, error)
            else:
                self.plans_read += 1
                return plan
        plan = build(self.cudnn, part, what, handle=handle)
        self._folder.write(key, bytes(plan.serialize(as_bytes=True)))
        return plan

    def _workspace(self, size_bytes: int, stream: int) -> int:
        """The address of room for a plan: the stream's largest so far, since its plans run one after another."""
        kept = self._kept.setdefault(stream, [(0, None)])
        if kept[-1][0] < size_bytes:
            kept.append((size_bytes, self._room(size_bytes)))
        room = kept[-1][1]
        return 0 if room is None else int(room.ptr)


@cache
def _module() -> Any:
    """The Python side of cuDNN; None if it is not installed."""
    try:
        import cudnn
    except (ImportError, OSError, RuntimeError):  # the last two: it is there, and its library is not
        return None
    return cudnn


@cache
def _of_gpu(xp: Any, index: int) -> Dnn | None:
    return engine_of(xp, index, os.environ.get("SHOAL_GPU_PLANS", ""))


def engine_of(xp: Any, index: int, folder: str) -> Dnn | None:
    """A new engine for a GPU; None without cuDNN.

    Args:
        folder: where plans are kept; "" keeps none.
    """
    module = _module()
    if module is None:
        return None
    return Dnn(module, lambda n: xp.module.cuda.alloc(n), folder_of(xp, module, index, folder))


def described(index: int) -> str:
    """A GPU's properties as cuDNN has them, JSON: with them plans can be asked for where there is no GPU; else ""."""
    module = _module()
    return "" if module is None else str(module.create_device_properties(index).serialize())


@contextmanager
def installed(engine: Dnn) -> Iterator[None]:
    """Within this context `dnn_of` gives ``engine``."""
    _installed.append(engine)
    try:
        yield
    finally:
        _installed.remove(engine)


_installed: list[Dnn] = []


def dnn_of(xp: Any) -> Dnn | None:
    """cuDNN on the current GPU; None without it. What is `installed` goes first."""
    if _installed:
        return _installed[-1]
    cuda = getattr(xp.module, "cuda", None)
    if cuda is None or not hasattr(cuda, "alloc"):  # GPUs of NumPy have none
        return None
    return _of_gpu(xp, int(cuda.Device().id))


def stream_of(xp: Any) -> int:
    """The stream that work goes to, as the library is told of it."""
    return int(xp.module.cuda.get_current_stream().ptr) if hasattr(xp.module, "cuda") else 0


def address(x: Any) -> int:
    """Where an array lies."""
    return int(x.ctypes.data) if isinstance(x, np.ndarray) else int(x.data.ptr)
