"""Devices: where tensors are made, and moved to.

A device is the text "cpu" or "gpu:0", and a context in which new tensors are made there:

    >>> from shoal.ops.context import cpu, current_device
    >>> with cpu() as here:
    ...     print(current_device() == here == "cpu")
    True
"""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from shoal.errors import ConfigError
from shoal.ops.backend import gpu_count, gpu_namespace, gpu_number

__all__ = ["Device", "as_device", "at", "cpu", "current_device", "gpu", "num_gpus", "of_worker", "set_device"]

_state = threading.local()
_default = "cpu"


class Device(str):
    """ "cpu" or "gpu:0"; compares with text. ``with device:`` makes it the one of new tensors, in this thread.

    Args:
        name: "cpu", "gpu" (the first one), "gpu:1"; "cuda:1" is another word for that.
    Raises:
        ConfigError: no device is called so. Whether it exists is seen when it is used.
    """

    __slots__ = ("_entered",)
    _entered: list[Any]

    def __new__(cls, name: str) -> Self:
        if isinstance(name, cls):
            return name
        number = gpu_number(name)
        made = super().__new__(cls, "cpu" if number < 0 else f"gpu:{number}")
        made._entered = []
        return made

    @property
    def device_type(self) -> str:
        """ "cpu" or "gpu"."""
        return self.partition(":")[0]

    @property
    def device_id(self) -> int:
        """Its number; 0 of the CPU."""
        return max(0, gpu_number(self))

    def __enter__(self) -> Self:
        context: Any = nullcontext() if self == "cpu" else _there(self)
        context.__enter__()
        self._entered.append((context, getattr(_state, "device", None)))
        _state.device = self
        return self

    def __exit__(self, *error: object) -> None:
        context, _state.device = self._entered.pop()
        context.__exit__(*error)

    def __repr__(self) -> str:
        return f"Device({str.__repr__(self)})"

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)


def cpu(device_id: int = 0) -> Device:
    """The host's memory. ``device_id`` is for scripts of MXNet: there is one."""
    return Device("cpu")


def gpu(device_id: int = 0) -> Device:
    """A GPU.

    >>> gpu(1)
    Device('gpu:1')
    """
    return Device(f"gpu:{device_id}")


def num_gpus() -> int:
    """How many GPUs this process can use: 0 without CuPy or without a driver."""
    return gpu_count()


def current_device() -> Device:
    """Where new tensors are made: by the innermost ``with device:`` of this thread, else by `set_device`, else cpu."""
    return Device(getattr(_state, "device", None) or _default)


def set_device(device: str) -> Device:
    """Make a device the one of new tensors in all threads, where no ``with`` says otherwise; gives it.

    Raises:
        ConfigError: it does not exist.
    """
    global _default
    made = Device(device)
    if made != "cpu":
        _there(made)
    _default = str(made)
    return made


def of_worker(device: str, rank: int) -> Device:
    """The device of a worker: "gpu" without a number is the one of its rank, counted around those of the host.

    Raises:
        ConfigError: no device is called so.
    """
    if device in ("gpu", "cuda"):
        return gpu(rank % max(1, num_gpus()))
    return Device(device)


def as_device(device: Any) -> str | None:
    """What functions take as ``device`` or ``ctx``: None (as it is), text, a `Device`, or a list of one of them.

    Raises:
        ConfigError: several devices: in shoal a process has one, and more processes have more.
    """
    if isinstance(device, (list, tuple)):
        if len(device) != 1:
            raise ConfigError(
                f"{len(device)} devices {list(device)} for one model: start a process for each, as with "
                f"`shoal run --device gpu -n {max(1, len(device))}`"
            )
        device = device[0]
    return None if device is None else str(Device(device))


def _there(device: Device) -> Any:
    count = gpu_count()
    if device.device_id >= count:
        xp = gpu_namespace() if not count else None  # says what to install, if that is it
        why = "" if xp is None else "; is there a driver? `shoal doctor` says more"
        raise ConfigError(f"{str(device)!r} does not exist: this process sees {count} GPUs{why}")
    return gpu_namespace().module.cuda.Device(device.device_id)


def at(array: Any) -> AbstractContextManager[Any]:
    """Within this context work is done on the GPU of ``array``; nothing changes for one of the host."""
    place = getattr(array, "device", None)
    if place is None or isinstance(place, str):  # NumPy's arrays are on "cpu"
        return nullcontext()
    found: AbstractContextManager[Any] = gpu_namespace().module.cuda.Device(place.id)
    return found
