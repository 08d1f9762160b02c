"""What the generated kernels of images have in common: the width of a vector, memory orders, and the C around a kernel.

Images are (batch, channels, height, width) to the user, and mostly channels-last in memory. Kernels work on
channels-last arrays only: what comes otherwise is copied to scratch memory first (`Frame.input`), and a result that is
wanted otherwise is copied at last (`Frame.output`).
"""

import hashlib
from collections.abc import Callable, Sequence

from shoal.ops.graph.bind import alike
from shoal.ops.graph.kernels import Site, Source, Strides, strides_of
from shoal.ops.native import compiler
from shoal.ops.registry import Spec

__all__ = ["Frame", "is_channels_last", "lanes", "steps"]

CHANNELS_LAST = (0, 2, 3, 1)
"""The axes of images from the slowest to the fastest in memory."""


_lanes = 0


def lanes() -> int:
    """How many floats a vector of ``vectors.h`` has; 0 where nothing can be compiled."""
    global _lanes
    if not _lanes or compiler.switched_off():
        _lanes = _asked()
    return _lanes


def _asked() -> int:
    library = compiler.load(compiler.text("vectors.h") + "EXPORT int shoal_lanes(void) { return LANES; }\n")
    return 0 if library is None else int(library.shoal_lanes())


def is_channels_last(spec: Spec, strides: Strides) -> bool:
    """Whether images lie channels-last, without gaps."""
    return alike(spec.shape, strides, strides_of(spec, CHANNELS_LAST))


def steps(spec: Spec, strides: Strides) -> tuple[int, ...]:
    """Strides in elements, 0 for axes of length 1."""
    return tuple(0 if n == 1 else s // spec.dtype.itemsize for n, s in zip(spec.shape, strides, strict=True))


class Frame:
    """The function around a kernel: what it does to the arrays of its call, stage after stage, on all threads."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.specs = [s for s in (*site.specs, *site.call.specs) if isinstance(s, Spec)]
        self.strides = [s for s in site.strides if s is not None]
        self._declared: list[str] = []
        self._first: list[str] = []
        self._stages: list[str] = []
        self._last: list[str] = []
        self._floats = 0

    def scratch(self, floats: int) -> str:
        """A C expression: scratch memory of this length."""
        at, self._floats = self._floats, self._floats + -(-floats // 16) * 16
        return f"((float *)p[{len(self.specs)}] + {at}L)"

    def pointer(self, name: str, number: int, kind: str = "float") -> None:
        """Declare ``name``: array ``number`` of the call, inputs then outputs, as it lies."""
        self._declared.append(f"{kind} *restrict {name} = ({kind} *)p[{number}];")

    def input(self, name: str, number: int) -> None:
        """Declare ``name``: images, channels-last."""
        if is_channels_last(self.specs[number], self.strides[number]):
            self.pointer(name, number)
        else:
            self._copied(name, number)
            self._first.append(self._copy(f"{name}[k] = {name}_there[at];", number))

    def output(self, name: str, number: int) -> None:
        """Declare ``name``: images to be written, channels-last."""
        if is_channels_last(self.specs[number], self.strides[number]):
            self.pointer(name, number)
        else:
            self._copied(name, number)
            self._last.append(self._copy(f"{name}_there[at] = {name}[k];", number))

    def stage(self, count: str, body: str, *, wait: bool = True) -> None:
        """Carry out ``body`` for each long t < ``count``, divided among the threads; then wait for all of them."""
        rule = "#pragma omp for" if wait else "#pragma omp for nowait"
        self._stages.append(f"{rule}\n    for (long t = 0; t < {count}; t++) {{ {body} }}")

    def alone(self, body: str) -> None:
        """Carry out ``body`` on one thread while the others wait."""
        self._stages.append(f"#pragma omp single\n    {{ {body} }}")

    def source(self, text: Callable[[str], str], work: int) -> Source:
        """The kernel, named after its text.

        Args:
            text: the functions that the stages call, given a prefix for their names, which is replaced later.
            work: about how many element operations it is; few are done by one thread.
        """
        lines = "\n    ".join([*self._first, *self._stages, *self._last])
        declared = "\n  ".join(self._declared)
        whole = f"""{text("NAME")}
EXPORT void NAME(char **p) {{
  {declared}
#pragma omp parallel num_threads(SHOAL_TEAM({work}L))
  {{
    {lines}
  }}
}}
"""
        name = "i" + hashlib.blake2b(whole.encode(), digest_size=10).hexdigest()
        header = compiler.text("vectors.h")
        return Source(name, header + whole.replace("NAME", name), scratch_bytes=4 * self._floats)

    def _copied(self, name: str, number: int) -> None:
        size = 1
        for n in self.specs[number].shape:
            size *= n
        self.pointer(f"{name}_there", number)
        self._declared.append(f"float *restrict {name} = {self.scratch(size)};")

    def _copy(self, move: str, number: int) -> str:
        shape: Sequence[int] = self.specs[number].shape
        sn, sc, sh, sw = steps(self.specs[number], self.strides[number])
        _, c, h, w = shape
        place = f"t / {h} * {sn}L + t % {h} * {sh}L + j * {sw}L + c * {sc}L"
        return (
            f"#pragma omp for\n    for (long t = 0; t < {shape[0] * h}; t++) for (long j = 0; j < {w}; j++) "
            f"for (long c = 0; c < {c}; c++) {{ const long at = {place}, k = (t * {w} + j) * {c} + c; {move} }}"
        )
