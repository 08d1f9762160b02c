"""A function of tensors that is recorded on the GPU, and replayed: `graphed`."""

from collections.abc import Callable
from typing import Any

from shoal.errors import DeviceError
from shoal.ops import random
from shoal.ops.gpu import device
from shoal.ops.gpu.device import Event, Stream
from shoal.ops.gpu.replay import Replay
from shoal.ops.tensor import Tensor

__all__ = ["Graphed", "graphed"]


AHEAD = 4
"""How many steps the host may be ahead of the GPU before it waits to write the next keys."""


class _Key:
    """A random key that a recorded step reads: an array of the GPU, filled before each step."""

    def __init__(self, gpu: device.Gpu, purpose: str, words: Any) -> None:
        self.purpose, self.gpu = purpose, gpu
        self.array = gpu.reserve(words.nbytes).view(words.dtype)
        self._ring: list[tuple[Any, list[Event]]] = [(gpu.pinned(words.shape, words.dtype), []) for _ in range(AHEAD)]
        self.fill(words, gpu.current())

    def fill(self, words: Any, stream: Stream) -> None:
        """Copy new words there, behind the work of ``stream``."""
        pinned, left = self._ring[0]
        for event in left:
            event.synchronize()  # four steps ago: it has long left
        pinned[...] = words
        self.gpu.copy(self.array, pinned, stream)
        left[:] = [stream.record()]
        self._ring.append(self._ring.pop(0))


class _Function:
    """The body of `Graphed` for one signature."""

    def __init__(self, fn: Callable[..., Any], gpu: device.Gpu, key: tuple[Any, ...]) -> None:
        self.fn, self.gpu = fn, gpu
        self.keys: list[_Key] = []
        self._drawn = 0
        self.slots = [gpu.xp.empty(shape, dtype) for shape, dtype in key]
        self.watched: list[Any] = []

    def run(self, stream: Stream) -> Any:
        """Call the function with the slots."""
        self._drawn = 0
        with random.keys_placed(self._placed):
            return self.fn(*[Tensor(x) for x in self.slots])

    def prepare(self, stream: Stream) -> None:
        """New random keys, in the order in which the function draws them."""
        for key in self.keys:
            key.fill(random.next_key(key.purpose), stream)

    def _placed(self, purpose: str, words: Any) -> Any:
        """The array of the next key; in the first run, the key of that draw, in later ones, that of `prepare`."""
        number, self._drawn = self._drawn, self._drawn + 1
        if number == len(self.keys):
            self.keys.append(_Key(self.gpu, purpose, words))
        else:
            random.undraw()
        if self.keys[number].purpose != purpose:
            raise DeviceError(f"draw {number} of a recorded step was for {self.keys[number].purpose}, now {purpose}")
        return self.keys[number].array


class Graphed:
    """What `graphed` makes. Call it with tensors of one GPU, or of the host; see there."""

    def __init__(self, fn: Callable[..., Any], warm_ups: int, limit: int, enabled: bool) -> None:
        self.fn = fn
        self._warm_ups, self._limit, self._enabled = warm_ups, limit, enabled
        self._replays: dict[int, Replay] = {}
        self.label = getattr(fn, "__qualname__", type(fn).__name__)

    def __call__(self, *tensors: Any) -> Any:
        """The function's result; on the host, it is simply called."""
        there = {x.device for x in tensors if isinstance(x, Tensor) and x.device != "cpu"}
        if not there:
            return self.fn(*tensors)
        if len(there) > 1 or not all(isinstance(x, Tensor) for x in tensors):
            raise DeviceError(
                f"{self.label}: a recorded function takes tensors of one GPU, got them on {sorted(there)}"
            )
        index = int(there.pop().partition(":")[2])
        replay = self._replays.get(index)
        if replay is None:
            gpu = device.gpu(index)
            replay = self._replays[index] = Replay(
                gpu,
                lambda key: _Function(self.fn, gpu, key),
                label=self.label,
                warm_ups=self._warm_ups,
                limit=self._limit,
                enabled=self._enabled,
            )
        with replay.gpu.use():
            arrays = [replay.gpu.xp.ascontiguousarray(x.to_device(f"gpu:{index}").data) for x in tensors]
            return replay(*arrays)[0]

    def why_not(self) -> list[str]:
        """Why signatures are not recorded, for those that are not."""
        return [why for replay in self._replays.values() for why in replay.why_not()]


def graphed(fn: Callable[..., Any], *, warm_ups: int = 2, limit: int = 8, enabled: bool = True) -> Graphed:
    """``fn`` as a CUDA graph: one launch in place of one for each operator, for tensors on a GPU.

    The first calls with a signature (shapes and dtypes) run it as it is, the next one records what it asks of the GPU,
    and all others replay that with the arguments copied to where the recording reads them. So ``fn``

    - takes tensors and gives tensors, lists or None; the next call overwrites what it gave;
    - may call ``backward``: gradients are delivered where they always are;
    - must not look at values, nor depend on what changes from call to call in Python, such as a learning rate: call
      ``Trainer.step`` behind it. Optimizers refuse to be recorded.

    What cannot be recorded runs as it is, and one line of the log says why.

    Args:
        warm_ups: how many calls run as they are before the recording.
        limit: how many signatures are kept.
        enabled: False never records: to compare.
    """
    return Graphed(fn, warm_ups, limit, enabled)
