"""Gradients and weights that live on a GPU: the default strategy, through flat buckets and streams of their own."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array
from shoal.kvstore.codecs.encoded import Encoded
from shoal.kvstore.codecs.ongpu import runs_on_gpu
from shoal.kvstore.codecs.plan import Plan
from shoal.kvstore.group.base import GroupStore
from shoal.ops.gpu.device import Gpu, gpu
from shoal.worker import record
from shoal.worker.device.path import DevicePath
from shoal.worker.device.plan import Bucket, Item, planned
from shoal.worker.strategies.base import Snapshot, Stepper
from shoal.worker.strategies.leaving import Leaving
from shoal.worker.strategies.site import Site

__all__ = ["OnDevice", "device_of", "on_gpu"]


def device_of(site: Site) -> Gpu | None:
    """The GPU that has the site's parameters; None if they are in host memory.

    Raises:
        ConfigError: some are on one, and some elsewhere.
    """
    places = {n: getattr(getattr(w, "device", None), "id", -1) for n, w in site.weights().items()}
    found = set(places.values())
    if len(found) > 1:
        names = ", ".join(f"{n} on {'the host' if p < 0 else f'gpu:{p}'}" for n, p in list(places.items())[:4])
        raise ConfigError(f"a Trainer's parameters are all on one GPU, or all in host memory; these are not: {names}")
    index = found.pop()
    return None if index < 0 else gpu(index)


class OnDevice(Stepper):
    """The store updates weights that are on a GPU; see `shoal.worker.device.path`.

    Parameters and gradients become parts of flat arrays. In `overlap` new weights arrive while the backward pass goes
    on with earlier layers: each takes its place as soon as nothing of this step needs the old one.
    """

    def __init__(self, site: Site, device: Gpu) -> None:
        super().__init__(site)
        self.device = device
        self._path: DevicePath | None = None
        self._codec = ""  # of the store
        self._homes: dict[str, tuple[Any, Any]] = {}  # tensors of value and gradient
        self._leaving: Leaving[int] = Leaving(site, self._groups, self._leave, "buckets")

    @property
    def path(self) -> DevicePath:
        """The path; made by `prepare`."""
        assert self._path is not None, "prepared before"
        return self._path

    def prepare(self) -> None:
        site, apart = self.site, self.site.optimizer.whole
        items = {}
        for name, p in site.params.items():
            if p.leaf().receive is not None:
                raise ConfigError(
                    f"parameter {name!r} has a row-sparse gradient; on a GPU gradients are dense: leave sparse_grad out"
                )
            kind = name if apart else (p.lr_mult, p.wd_mult)
            items[name] = Item(tuple(p.current().data.shape), p.current().data.dtype, kind)
        buckets = planned(items)
        self._path = self._ends(buckets)
        self._move_in(buckets)
        self._share(buckets)
        self._encode()
        self._path.start()
        record.current().weights = self._host_weights  # the store has them by buckets

    def _ends(self, buckets: list[Bucket]) -> DevicePath:
        """The path: with the GPUs of this host, if there are others, and who sends each bucket."""
        store = self.site.store
        if isinstance(store, GroupStore):
            owner = store.dealt([b.size * b.dtype.itemsize for b in buckets])
            group = store.on_gpus(self.device)

            def deliver(i: int, value: Any, out: Array) -> Any:
                return store.deliver(_key(i), value, out)

            return DevicePath(self.device, buckets, deliver, group=group, owner=owner, average=store.average)

        def send(i: int, value: Any, out: Array) -> Any:
            push = store.pushpull_encoded if isinstance(value, Encoded) else store.pushpull_async
            return push(_key(i), value, out, priority=buckets[i].priority)

        return DevicePath(self.device, buckets, send)

    def _encode(self) -> None:
        """Let gradients leave as the store's codec wants them."""
        store = self.site.store
        self._codec = store.compression
        wire = on_gpu(self._codec)
        found = [store.encoding(_key(i)) for i in range(len(self.path.buckets))]
        self.path.change_wire(wire, [e if e is not None and e.spec == wire else None for e in found])

    def _move_in(self, buckets: list[Bucket]) -> None:
        """Make parameters and gradients parts of the flat arrays."""
        for i, bucket in enumerate(buckets):
            for name in bucket.names:
                p = self.site.params[name]
                weight, leaf = p.current(), p.leaf()
                self._homes[name] = weight, leaf.grad
                for tensor, flat in ((weight, self.path.weights[i]), (leaf.grad, self.path.grads[i])):
                    place = bucket.view(flat, name)
                    place[...] = tensor.data
                    tensor.data = place

    def _share(self, buckets: list[Bucket]) -> None:
        """Give the store worker 0's weights and the rule, and all workers the store's weights."""
        site, xp = self.site, self.device.xp
        keys = [_key(i) for i in range(len(buckets))]
        values = [xp.module.asnumpy(w) for w in self.path.weights]
        site.store.init(keys, values, whole=site.optimizer.whole)
        self._give_rule()
        for i, value in enumerate(site.store.pull(keys)):
            self.path.weights[i][...] = xp.asarray(value)

    # --- steps -------------------------------------------------------------------------------------------------------

    def overlap(self, batch_size: int) -> AbstractContextManager[None]:
        """Buckets leave when the last of their gradients is final."""
        return self._leaving.opened(batch_size, self._start)

    def _groups(self) -> dict[int, tuple[str, ...]]:
        return {i: b.names for i, b in enumerate(self.path.buckets)}

    def _start(self) -> None:
        """A step begins; what the step before has left on its way is taken."""
        self._all_here()
        site = self.site
        for name, p in site.params.items():
            value, grad = self._homes[name]
            if p.current() is not value or p.leaf().grad is not grad:
                raise ConfigError(
                    f"parameter {name!r} was moved or converted after the first step: its gradient is no part of what "
                    "leaves the GPU any more. Make another Trainer"
                )
        if self._codec != site.store.compression:  # somebody has changed it
            self._encode()
        self.path.begin()

    def _leave(self, i: int, batch_size: int) -> None:
        for name in self.path.buckets[i].names:
            if name in self.site.stale:
                self.site.params[name].leaf().empty()
        self.path.ready(i, 1.0 / batch_size)

    def step(self, batch_size: int) -> None:
        if not self._leaving.left:
            self._start()
        self._leaving.complete(batch_size)
        for i, bucket in enumerate(self.path.buckets):
            for name in bucket.names:
                self.site.params[name].arrives(partial(self.path.arrived, i))

    def read(self) -> None:
        """The store's weights; of a store that reduces on the host first, those that are on their way to here."""
        self._all_here()
        if isinstance(self.site.store, GroupStore):
            return
        for i, flat in enumerate(self.path.weights):
            flat[...] = self.device.xp.asarray(self.site.store.pull(_key(i)))

    def _all_here(self) -> None:
        """Take every weight that is on its way."""
        for i in range(len(self.path.buckets)):
            self.path.arrived(i)

    def _host_weights(self) -> dict[str, Array]:
        """Copies of the parameters in host memory, for the run's digest."""
        return {n: self.device.xp.module.asnumpy(w) for n, w in self.site.weights().items()}

    def finish(self) -> None:
        self._all_here()
        super().finish()
        self.path.close()

    def _give_rule(self) -> None:
        """Give the store the optimizer; parameters of one bucket have the same factors."""
        site = self.site
        lr, wd = [
            {_key(i): found[b.names[0]] for i, b in enumerate(self.path.buckets) if b.names[0] in found}
            for found in site.multipliers()
        ]
        site.store.set_optimizer(site.optimizer, lr, wd, site.correction or None)

    def optimizer_changed(self) -> None:
        self._give_rule()

    def kept(self) -> Snapshot:
        """The weights; the states lie in buckets that are not those of other runs, and begin anew."""
        return Snapshot({}, {}, self._host_weights())

    def snapshot(self) -> Snapshot:
        raise ConfigError(
            "the optimizer's states are in the store, by buckets of this GPU's parameters: save the weights with "
            "net.save_parameters()"
        )

    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        self.snapshot()


def on_gpu(compression: str) -> str:
    """The codec of a store's pushes if it runs on a GPU; empty if there is none, or it runs on the host."""
    codec = Plan.of(compression or None).push
    if codec.name == "bf16":
        return codec.name
    return "" if codec.name == "none" or runs_on_gpu(codec) else codec.spec()


def _key(i: int) -> str:
    return f"bucket/{i}"
