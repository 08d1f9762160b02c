"""`Trainer`: gradients to the store, new weights back (Gluon's interface)."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from shoal.errors import CheckpointError, ConfigError, DeferredInitializationError
from shoal.kvstore.api import KVStore, create
from shoal.kvstore.arrays import Array
from shoal.kvstore.codecs import Spec, parse
from shoal.kvstore.local import LocalKVStore
from shoal.ops import optim, random
from shoal.ops.nn.block import Block
from shoal.ops.nn.parameter import Parameter
from shoal.ops.optim import Optimizer
from shoal.worker import record
from shoal.worker.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["Trainer"]


class Trainer:
    """Updates parameters with their gradients, through a key-value store.

    Args:
        params: what ``net.collect_params()`` gives, or a list of parameters.
        optimizer: a name such as ``"sgd"``, or an `Optimizer`.
        optimizer_params: its hyper-parameters, when it is given by name.
        kvstore: a name for `shoal.kv.create`, a store, or None to update here without one. ``"auto"`` is the run's
            store under ``shoal run``, and a local one otherwise.
        update_on_kvstore: let the store apply the optimizer (the default), or only reduce the gradients and apply it on
            every worker.
        reduce: "mean" of the workers' gradients (the learning rate keeps its meaning when workers are added) or "sum".
        compression_params: compress gradients on their way to the store, such as ``{"type": "2bit", "threshold": 0.5}``
            or ``"topk:ratio=0.01"``; ``docs/codecs.md`` lists the codecs.
    Raises:
        ConfigError: an option is not what it should be, or options contradict each other; for instance an asynchronous
            store that shall not update.
    """

    def __init__(
        self,
        params: Mapping[str, Parameter] | Sequence[Parameter],
        optimizer: str | Optimizer,
        optimizer_params: Mapping[str, Any] | None = None,
        kvstore: str | KVStore | None = "auto",
        update_on_kvstore: bool | None = None,
        reduce: str = "mean",
        compression_params: Spec | None = None,
    ) -> None:
        if isinstance(params, Block):
            raise ConfigError(f"a Trainer needs parameters, got a {type(params).__name__}: pass net.collect_params()")
        if not isinstance(optimizer_params, Mapping | None):
            given = f"optimizer_params is {optimizer_params!r}"
            raise ConfigError(f"{given}, expected a mapping such as {{'learning_rate': 0.1}}")
        named = params if isinstance(params, Mapping) else {p.name: p for p in params}
        if not named:
            raise ConfigError("a Trainer needs parameters, got none: pass net.collect_params()")
        if not isinstance(params, Mapping) and len(named) != len(params):
            raise ConfigError("two parameters have the same name: pass net.collect_params(), whose names are unique")
        self._params = _distinct(named)
        self.optimizer = optim.create(optimizer, **dict(optimizer_params or {}))
        self._kvstore = create(kvstore, reduce=reduce) if isinstance(kvstore, str) else kvstore
        self._on_store = self._kvstore is not None if update_on_kvstore is None else update_on_kvstore
        self._check_store()
        if compression_params is not None:
            self._compress(compression_params)
        self._states: dict[str, tuple[int, Any]] = {}
        self._buffers: dict[str, Array] = {}
        self._ready = False
        self._steps = 0

    def _check_store(self) -> None:
        if self._kvstore is None and self._on_store:
            raise ConfigError("update_on_kvstore=True needs a kvstore, got None")
        if self._kvstore is not None and not self._on_store and self._kvstore.type not in ("local", "dist_sync"):
            raise ConfigError(
                f"update_on_kvstore=False needs a synchronous store: under {self._kvstore.type!r} there is no moment "
                "at which all gradients of a step are reduced. Leave update_on_kvstore out."
            )

    def _compress(self, params: Spec) -> None:
        if self._kvstore is None:
            raise ConfigError("compression_params needs a kvstore, got None: nothing is sent anywhere")
        momentum = self.optimizer.spec().params.get("momentum")
        if parse(params).name == "dgc" and momentum:
            raise ConfigError(
                f"dgc has a momentum of its own; with the optimizer's {momentum:g} it would be applied twice. "
                "Give the momentum to dgc and none to the optimizer."
            )
        self._kvstore.set_gradient_compression(params)

    @property
    def kvstore(self) -> KVStore | None:
        """The store, if there is one."""
        return self._kvstore

    @property
    def learning_rate(self) -> float:
        """The rate of the next update; with a schedule, its base rate."""
        return self.optimizer.learning_rate

    def set_learning_rate(self, lr: float) -> None:
        """Change the rate from the next step on, on the servers too; momentum and the like are kept.

        Every worker must call it at the same step.
        """
        if self.optimizer.lr_scheduler is not None:
            raise ConfigError("the learning rate follows lr_scheduler; make an optimizer without one to set it by hand")
        self.optimizer = optim.from_spec(_with_rate(self.optimizer.spec(), lr))
        if self._ready and self._on_store and self._kvstore is not None:
            self._kvstore.set_optimizer(self.optimizer, *self._multipliers())

    def step(self, batch_size: int, ignore_stale_grad: bool = False) -> None:
        """One update: gradients divided by ``batch_size`` are pushed, weights are pulled.

        Call it after ``backward()``, outside ``record()``.

        Args:
            batch_size: samples in this worker's batch.
            ignore_stale_grad: accepted for scripts written for MXNet; every parameter is always updated.
        Raises:
            DeferredInitializationError: the model has seen no batch yet.
            StoreTimeoutError, NodeLostError: names who is waited for, or lost.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is the number of samples of this step, at least 1; got {batch_size}")
        self._prepare()
        if self._kvstore is None:
            self._update({n: self._scaled(n, p, batch_size) for n, p in self._params.items()})
        elif self._on_store:
            self._exchange(batch_size, {n: p.data() for n, p in self._params.items()})
        else:
            reduced = {n: self._scaled(n, p, batch_size) for n, p in self._params.items()}
            self._wait([self._pushpull(i, n, g, g) for i, (n, g) in enumerate(reduced.items())])
            self._update(reduced)
        self._count(batch_size)

    def allreduce_grads(self) -> None:
        """Replace every gradient by its mean (or sum) over the workers; then change them as you like and `update`."""
        if self._on_store or self._kvstore is None:
            raise ConfigError(
                "allreduce_grads needs a kvstore and update_on_kvstore=False: the store applies the update"
            )
        self._prepare()
        grads = {n: _memory(p.grad()) for n, p in self._params.items()}
        self._wait([self._pushpull(i, n, g, g) for i, (n, g) in enumerate(grads.items())])

    def update(self, batch_size: int) -> None:
        """Apply the optimizer here, to gradients that `allreduce_grads` has reduced."""
        if self._on_store:
            raise ConfigError("update needs update_on_kvstore=False: the store applies the update in step()")
        self._prepare()
        self._update({n: self._scaled(n, p, batch_size) for n, p in self._params.items()})
        self._count(batch_size)

    def pull(self) -> None:
        """Read the store's present weights into the parameters."""
        self._prepare()
        if self._kvstore is not None and self._on_store:
            self._wait([self._kvstore.pull_async(n, p.data(), -i) for i, (n, p) in enumerate(self._params.items())])

    def save_states(self, path: str | os.PathLike[str]) -> None:
        """Write weights, optimizer states and update counts, to go on from later (see `shoal.worker.checkpoint`).

        Raises:
            ConfigError: the states are on the servers of a cluster.
        """
        self._prepare()
        states = self._local_store().optimizer_states() if self._on_store else self._states
        weights = {n: p.data() for n, p in self._params.items()}
        save_checkpoint(path, weights, states, {"steps": self._steps, "optimizer": self.optimizer.spec().name})

    def load_states(self, path: str | os.PathLike[str]) -> None:
        """Go on from what `save_states` wrote.

        Raises:
            CheckpointError: it is of another model or another optimizer.
            ConfigError: the states belong on the servers of a cluster.
        """
        self._prepare()
        found = load_checkpoint(path)
        kind = found.meta.get("optimizer")
        if found.params.keys() != self._params.keys() or kind != self.optimizer.spec().name:
            raise CheckpointError(
                f"{os.fspath(path)!r} has {kind} states of {sorted(found.params)}; "
                f"this trainer is {self.optimizer.spec().name} for {sorted(self._params)}"
            )
        for name, p in self._params.items():
            p.set_data(found.params[name])
        if self._on_store:
            self._local_store().restore(found.params, found.states)
        else:
            self._states = dict(found.states)
        self._steps = int(found.meta["steps"])
        random.set_address(step=self._steps)

    def _local_store(self) -> LocalKVStore:
        if not isinstance(self._kvstore, LocalKVStore):
            raise ConfigError(
                "the optimizer's states are on the servers; save the weights with net.save_parameters(), "
                "or train with update_on_kvstore=False to keep the states here"
            )
        return self._kvstore

    # --- inside -------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Once, when every shape is known: the store gets worker 0's weights, all get them back."""
        if self._ready:
            return
        for name, p in self._params.items():
            try:
                p.data()
            except DeferredInitializationError as e:
                todo = "run one batch through the model first"
                if not p.is_deferred:
                    todo = "it has no value: call initialize() on the model, and run one batch through it first"
                raise DeferredInitializationError(f"parameter {name!r}: {todo}") from e
        record.current().start()
        if self._kvstore is not None:
            names = list(self._params)
            weights = [p.data() for p in self._params.values()]
            if self._on_store:
                self._kvstore.init(names, weights)
                self._kvstore.set_optimizer(self.optimizer, *self._multipliers())
                self._kvstore.pull(names, weights)
            else:
                self._share(self._kvstore, names, weights)
        self._ready = True

    def _count(self, batch_size: int) -> None:
        """The step is done: random draws of the next one have an address of their own."""
        self._steps += 1
        random.set_address(step=self._steps)
        record.current().step(batch_size)

    def _share(self, store: KVStore, names: list[str], weights: list[Any]) -> None:
        """Equal weights everywhere, in a store that will hold gradients."""
        store.init(names, weights)
        store.pull(names, weights)
        record.current().weights = lambda: {n: _memory(p.data()) for n, p in self._params.items()}

    def _multipliers(self) -> tuple[dict[str, float], dict[str, float]]:
        lr = {n: p.lr_mult for n, p in self._params.items() if p.lr_mult != 1.0}
        wd = {n: p.wd_mult for n, p in self._params.items() if p.wd_mult != 1.0}
        return lr, wd

    def _exchange(self, batch_size: int, weights: Mapping[str, Any]) -> None:
        """Push every gradient and pull every weight; the first layers', needed first, have the highest priority."""
        futures = []
        for i, (name, p) in enumerate(self._params.items()):
            futures.append(self._pushpull(i, name, self._scaled(name, p, batch_size), weights[name]))
        self._wait(futures)

    def _pushpull(self, index: int, name: str, grad: Array, out: Any) -> "Future[Any]":
        if self._kvstore is None:
            raise ConfigError("no kvstore")
        return self._kvstore.pushpull_async(name, grad, out, priority=-index)

    @staticmethod
    def _wait(futures: "Sequence[Future[Any]]") -> None:
        for future in futures:
            future.result()

    def _scaled(self, name: str, p: Parameter, batch_size: int) -> Array:
        """The gradient divided by the batch size, in a buffer of its own: the store may still be sending it."""
        grad = _memory(p.grad())
        if name not in self._buffers:
            self._buffers[name] = np.empty_like(grad)
        return np.multiply(grad, 1.0 / batch_size, out=self._buffers[name])

    def _update(self, grads: Mapping[str, Array]) -> None:
        for name, p in self._params.items():
            weight = _memory(p.data())
            t, state = self._states.get(name) or (0, self.optimizer.init(weight))
            self._states[name] = (t + 1, state)
            self.optimizer.step(weight, grads[name], state, t + 1, lr_mult=p.lr_mult, wd_mult=p.wd_mult)


def _memory(tensor: Any) -> Array:
    array: Array = tensor.data
    return array


def _distinct(named: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Parameters that learn, each once, under its first name (layers may share one)."""
    seen: dict[int, None] = {}
    chosen = {}
    for name, p in named.items():
        if p.grad_req != "null" and id(p) not in seen:
            seen[id(p)] = None
            chosen[name] = p
    if not chosen:
        raise ConfigError("none of the parameters learns: every grad_req is 'null'")
    return chosen


def _with_rate(spec: optim.OptimizerSpec, lr: float) -> optim.OptimizerSpec:
    return optim.OptimizerSpec(spec.name, {**spec.params, "learning_rate": float(lr)})
