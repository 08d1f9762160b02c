"""Stands for the module ``cudnn`` of nvidia-cudnn-frontend in tests: graphs that compute on the CPU, at addresses."""

import ctypes
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self

import ml_dtypes
import numpy as np

from shoal.ops.backend import CPU
from shoal.ops.registry import OPS

data_type = SimpleNamespace(FLOAT=np.float32, HALF=np.float16, BFLOAT16=ml_dtypes.bfloat16)
numerical_note = SimpleNamespace(TENSOR_CORE="tensor cores", DOWN_CONVERT_INPUTS="narrow inputs")
__version__ = "1.32.0"
heur_mode = SimpleNamespace(A="A", FALLBACK="B")
log: list[Any] = []
stored: list[Any] = []


def create_handle() -> object:
    log.append("handle")
    return object()


def set_stream(handle: object, stream: int) -> None:
    log.append(("stream", stream))


class Tensor:
    def __init__(self, uid: int = 0, dim: Any = None, stride: Any = None, data_type: Any = None) -> None:
        self.uid, self.dim, self.stride, self.dtype, self.output = uid, dim, stride, data_type, False

    def set_uid(self, uid: int) -> Self:
        self.uid = uid
        return self

    def set_dim(self, dim: Sequence[int]) -> Self:
        self.dim = dim
        return self

    def set_stride(self, stride: Sequence[int]) -> Self:
        self.stride = stride
        return self

    def set_data_type(self, dtype: Any) -> Self:
        self.dtype = dtype
        return self

    def set_output(self, on: bool) -> Self:
        self.output = on
        return self

    def at(self, where: dict[int, int]) -> np.ndarray:
        """The array at its address."""
        dtype = np.dtype(self.dtype)
        span = 1 + sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True))
        raw = (ctypes.c_uint8 * (span * dtype.itemsize)).from_address(where[self.uid])
        flat = np.frombuffer(raw, np.uint8).view(dtype)
        return np.lib.stride_tricks.as_strided(flat, self.dim, [s * dtype.itemsize for s in self.stride])


class pygraph:  # the library's name
    def __init__(
        self,
        io_data_type: Any = None,
        intermediate_data_type: Any = None,
        compute_data_type: Any = None,
        *,
        handle: Any,
    ) -> None:
        assert intermediate_data_type == compute_data_type and handle is not None
        self.io, self.work, self.tensors, self.barred = io_data_type, None, [], []
        self.outputs: list[Tensor] = []

    def deselect_numeric_notes(self, notes: Sequence[str]) -> "pygraph":
        self.barred += notes
        return self

    def serialize(self, *, as_bytes: bool) -> bytes:
        assert as_bytes and self.work is not None
        stored.append((self.work, self.outputs))
        return b"plan %d" % (len(stored) - 1)

    def deserialize(self, handle: object, data: bytes) -> None:
        if not data.startswith(b"plan "):
            raise RuntimeError("this is no plan")
        log.append("deserialize")
        self.work, self.outputs = stored[int(data[5:])]

    def tensor(self, **given: Any) -> Tensor:
        made = Tensor(**given)
        made.dtype = made.dtype or self.io
        return made

    def _out(self, count: int) -> list[Tensor]:
        self.outputs = [Tensor(data_type=self.io) for _ in range(count)]
        return self.outputs

    def _convolution(self, name: str, first: Tensor, second: Tensor, how: dict[str, Any], **more: Any) -> Tensor:
        (out,) = self._out(1)
        self.convolves = True
        attrs = {"stride": tuple(how["stride"]), "pad": tuple(how["padding"]), "dilate": tuple(how["dilation"])}

        def work(where: dict[int, int]) -> None:
            size = {k: tuple(out.dim[2:]) for k in more}
            a, b = (t.at(where).astype(np.float64) for t in (first, second))
            out.at(where)[...] = OPS[name].plain(CPU, a, b, **attrs, **size)

        self.work = work
        return out

    def conv_fprop(self, x: Tensor, w: Tensor, **how: Any) -> Tensor:
        return self._convolution("convolution", x, w, how)

    def conv_dgrad(self, loss: Tensor, filter: Tensor, **how: Any) -> Tensor:
        return self._convolution("convolution_data", loss, filter, how, space=True)

    def conv_wgrad(self, image: Tensor, loss: Tensor, **how: Any) -> Tensor:
        return self._convolution("convolution_weight", loss, image, how, kernel=True)

    def _weights(self, q: np.ndarray, k: np.ndarray, attn_scale: float, use_causal_mask: bool) -> Any:
        scores = q @ k.swapaxes(-1, -2) * attn_scale
        if use_causal_mask:
            scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
        top = scores.max(-1, keepdims=True)
        total = top + np.log(np.exp(scores - top).sum(-1, keepdims=True))
        return np.exp(scores - total), total

    def sdpa(self, q: Tensor, k: Tensor, v: Tensor, generate_stats: bool, **how: Any) -> list[Tensor]:
        assert generate_stats
        out, stats = self._out(2)

        def work(where: dict[int, int]) -> None:
            a, b, c = (t.at(where).astype(np.float64) for t in (q, k, v))
            p, total = self._weights(a, b, **how)
            out.at(where)[...] = p @ c
            stats.at(where)[...] = total

        self.work = work
        return [out, stats]

    def sdpa_backward(self, q: Tensor, k: Tensor, v: Tensor, o: Tensor, dO: Tensor, stats: Tensor, **how: Any) -> Any:
        dq, dk, dv = self._out(3)

        def work(where: dict[int, int]) -> None:
            a, b, c, out, g = (t.at(where).astype(np.float64) for t in (q, k, v, o, dO))
            p, total = self._weights(a, b, **how)
            np.testing.assert_allclose(stats.at(where), total, rtol=1e-5)
            ds = p * (g @ c.swapaxes(-1, -2) - (g * out).sum(-1, keepdims=True)) * how["attn_scale"]
            dq.at(where)[...], dk.at(where)[...] = ds @ b, ds.swapaxes(-1, -2) @ a
            dv.at(where)[...] = p.swapaxes(-1, -2) @ g

        self.work = work
        return dq, dk, dv

    def build(self, modes: Sequence[str]) -> None:
        assert list(modes) == ["A", "B"] and all(t.output and t.uid and t.dim and t.stride for t in self.outputs)
        assert self.io is not None
        exact = self.io == np.float32 and hasattr(self, "convolves")
        assert self.barred in ([], ["tensor cores", "narrow inputs"]) and (exact or not self.barred)
        log.append("build exactly" if self.barred else "build")

    def get_workspace_size(self) -> int:
        return 100 + 10 * len(self.outputs)

    def execute(self, where: dict[int, int], workspace: int, handle: object) -> None:
        log.append(("execute", workspace))
        assert self.work is not None and handle is not None
        self.work(where)
