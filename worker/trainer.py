"""`Trainer`: gradients to the store, new weights back (Gluon's interface)."""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from shoal.errors import AutogradError, CheckpointError, ConfigError, DeferredInitializationError, MembershipError
from shoal.kvstore.api import KVStore, attached, create
from shoal.kvstore.codecs import Plan, Spec
from shoal.kvstore.control import altered_optimizer
from shoal.kvstore.dist import DistKVStore
from shoal.ops import optim, probe, random
from shoal.ops.nn.block import Block
from shoal.ops.nn.parameter import Parameter
from shoal.ops.optim import Optimizer
from shoal.worker import cluster, record, resuming, strategies
from shoal.worker.algo import Algo
from shoal.worker.algo import Spec as AlgoSpec
from shoal.worker.checkpoint import load_checkpoint, save_checkpoint
from shoal.worker.data.course import Work, current_course
from shoal.worker.scaling import GradScaler
from shoal.worker.strategies import Site, Snapshot, lag_matched_momentum
from shoal.worker.strategies.device import OnDevice, device_of
from shoal.worker.strategies.gradient import Gradient, OnStore, Reduced
from shoal.worker.strategies.site import applies_at_once, copied

__all__ = ["Trainer"]

log = logging.getLogger("shoal.worker")

SYNCHRONOUS = ("local", "device", "dist_sync", "dist_device_sync")
"""Stores that update, and that have a moment at which all gradients of a step are reduced."""

SYNC_MOMENTUM = 0.9
"""The momentum that ``momentum="auto"`` stands for in a synchronous run."""


class Trainer:
    """Updates parameters with their gradients, through a key-value store.

    Args:
        params: what ``net.collect_params()`` gives, or a list of parameters.
        optimizer: a name such as ``"sgd"``, or an `Optimizer`.
        optimizer_params: its hyper-parameters, when it is given by name. ``"momentum": "auto"`` is 0.9, and less in an
            asynchronous run, whose delays act as momentum already.
        kvstore: a name for `shoal.kv.create`, a store, or None to update here without one. ``"auto"`` is the run's
            store under ``shoal run``, and a local one otherwise.
        update_on_kvstore: let the store apply the optimizer (the default, where the store is capable of it), or only
            reduce the gradients and apply it on every worker.
        reduce: "mean" of the workers' gradients (the learning rate keeps its meaning when workers are added) or "sum".
            None is what the strategy needs: the mean, except for elastic averaging.
        compression_params: compress gradients on their way to the store, such as ``{"type": "2bit", "threshold": 0.5}``
            or ``"topk:ratio=0.01"``; ``docs/codecs.md`` lists the codecs.
        strategy: what is pushed, and when: None for the gradient of every step, or text such as ``"local:h=16"`` or
            ``"diloco:h=50"``; ``docs/strategies.md`` lists the strategies.
        algo: the whole algorithm in one word, such as ``"ssp:s=3"``, ``"dcasgd"`` or ``"easgd:tau=8"``, or by its
            parts; ``docs/algorithms.md`` lists them. What it leaves open, ``shoal run --algo`` may decide.
    Attributes:
        scaler: of losses in float16; see `shoal.amp.init_trainer`.
    Raises:
        ConfigError: an option is not what it should be, or options contradict each other; for instance an asynchronous
            store that shall not update.
        MembershipError: this process has joined a run that is under way, in which the servers do not have the weights.
    """

    def __init__(
        self,
        params: Mapping[str, Parameter] | Sequence[Parameter],
        optimizer: str | Optimizer,
        optimizer_params: Mapping[str, Any] | None = None,
        kvstore: str | KVStore | None = "auto",
        update_on_kvstore: bool | None = None,
        reduce: str | None = None,
        compression_params: Spec | None = None,
        strategy: strategies.Spec | None = None,
        algo: AlgoSpec | None = None,
    ) -> None:
        chosen = _distinct(_named(params, optimizer_params))
        self.algo = _algorithm(algo, strategy, compression_params)
        record.current().algo = str(self.algo)
        if self.algo.gate and kvstore in ("auto", "dist") and attached():
            kvstore = f"dist_{self.algo.gate}"
        if strategy is None or isinstance(strategy, str):
            strategy = self.algo.strategy
        self.strategy = strategies.parse(strategy) if strategy else Gradient()
        if compression_params is None:
            compression_params = self.algo.codec or None
        given = dict(optimizer_params or {})
        reduce = self.strategy.reduce or "mean" if reduce is None else reduce
        self._kvstore = create(kvstore, reduce=reduce) if isinstance(kvstore, str) else kvstore
        if given.get("momentum") == "auto":
            given["momentum"] = _momentum(self._kvstore)
        rule = optim.create(optimizer, **given)
        self._on_store = _updates(self._kvstore) if update_on_kvstore is None else update_on_kvstore
        self._check_store()
        if self.algo.rule and not self._on_store:
            raise ConfigError(f"rule {self.algo.rule!r} works in the store, got update_on_kvstore=False: leave it out")
        self._site = Site(chosen, rule, self._kvstore, self._on_store, self.algo.rule)
        self._stepper = self.strategy.bind(self._site)
        if self._kvstore is not None and not isinstance(self.strategy, Gradient):
            self._kvstore.gradients = False
        if compression_params is not None:
            self._compress(compression_params)
        self._ready = False
        self._course = current_course()
        self._steps = self._behind = 0
        self._asked = rule.spec().params
        self.scaler: GradScaler | None = None
        if self._kvstore is not None and attached():
            self._take_part(self._kvstore)

    def _take_part(self, store: KVStore) -> None:
        """The set of workers may change while this trains, and this worker may be one that comes later."""
        if self._course.later and not self._on_store:
            raise MembershipError(
                f"worker {cluster.rank()} has joined a run that is under way, and cannot train: with "
                "update_on_kvstore=False weights and optimizer are on the workers, and no server has them. Let the "
                "store apply the update, or start the run anew from a checkpoint"
            )

        def settle() -> None:
            if self._ready:
                self._stepper.level()
            store.flush()

        site = self._site
        self._course.trains(Work(self.strategy.steps_of, lambda: site.pushes, self._adopt, settle, self._resume))
        self._steps = self._course.steps

    def _check_store(self) -> None:
        store = self._kvstore
        if store is None:
            if self._on_store:
                raise ConfigError("update_on_kvstore=True needs a kvstore, got None")
        elif self._on_store and not _updates(store):
            raise ConfigError(
                f"update_on_kvstore=True: a store of type {store.type!r} only reduces, so that every worker makes the "
                "update itself. Leave update_on_kvstore out."
            )
        elif not self._on_store and _updates(store) and store.type not in SYNCHRONOUS:
            raise ConfigError(
                f"update_on_kvstore=False needs a synchronous store: under {store.type!r} there is no moment at which "
                "all gradients of a step are reduced. Leave update_on_kvstore out."
            )

    def _compress(self, params: Spec) -> None:
        if self._kvstore is None:
            raise ConfigError("compression_params needs a kvstore, got None: nothing is sent anywhere")
        codec, rule = Plan.of(params).push, self.optimizer.spec()
        if codec.gradients_only and not isinstance(self.strategy, Gradient):
            raise ConfigError(
                f"codec {codec.name} has a momentum of gradients; strategy {self.strategy.name!r} pushes differences "
                "of weights. Use topk, which sends as little."
            )
        objection = codec.objection(rule.name, rule.params)
        if objection:
            raise ConfigError(objection)
        self._kvstore.set_gradient_compression(params)

    @property
    def optimizer(self) -> Optimizer:
        """The rule that gradients go through; under a strategy with local steps, the inner one."""
        return self._site.optimizer

    @property
    def kvstore(self) -> KVStore | None:
        """The store, if there is one."""
        return self._kvstore

    @property
    def learning(self) -> Mapping[str, Parameter]:
        """The parameters that learn, each once."""
        return self._site.params

    @property
    def steps(self) -> int:
        """Training steps of this worker so far; one that replaces another goes on with the number of that.

        A loop that ends after so many steps counts with it: ``while trainer.steps < 1000``.
        """
        return self._steps

    @property
    def learning_rate(self) -> float:
        """The rate of the next update; with a schedule, its base rate."""
        return self.optimizer.learning_rate

    def set_learning_rate(self, lr: float, at_clock: int | None = None) -> None:
        """Change the rate from the next step on, on the servers too; momentum and the like are kept.

        Every worker must call it at the same step.

        Args:
            at_clock: not now, but when the weights have had so many updates; see `KVStore.control`.
        """
        if at_clock is not None:
            self._control(lr, at_clock)
            return
        if self.optimizer.lr_scheduler is not None:
            raise ConfigError("the learning rate follows lr_scheduler; make an optimizer without one to set it by hand")
        store = self._kvstore if self._on_store and isinstance(self.strategy, Gradient) else None
        altered = {} if store is None else store.altered  # by others: this must not take it back
        self._site.optimizer = optim.from_spec(_with_rate(altered_optimizer(self.optimizer, altered).spec(), lr))
        if self._ready:
            self._stepper.optimizer_changed()

    def _control(self, lr: float, at_clock: int) -> None:
        if self._kvstore is None or not self._on_store or not isinstance(self.strategy, Gradient):
            raise ConfigError(
                "set_learning_rate(at_clock=...) needs a store that makes the update of every step; call "
                "set_learning_rate without it, at that step"
            )
        self._prepare()
        self._kvstore.control(learning_rate=float(lr), at_clock=at_clock)

    def step(self, batch_size: int, ignore_stale_grad: bool = False) -> None:
        """One update: gradients divided by ``batch_size`` are pushed, weights are pulled; or what the strategy says.

        Call it after ``backward()``, outside ``record()``.

        Args:
            batch_size: samples in this worker's batch.
            ignore_stale_grad: leave out parameters whose gradient is no new one (see below): in one process they stay
                as they are. In a cluster, and on a GPU, such a parameter contributes zero, because the other workers
                wait for a contribution: momentum and weight decay go on.
        Raises:
            AutogradError: no backward pass has delivered a gradient to a parameter since the last step, or ever, and
                nobody has asked for its `grad`: the old gradient would be applied a second time, or weight decay alone.
            DeferredInitializationError: the model has seen no batch yet.
            StoreTimeoutError, NodeLostError: names who is waited for, or lost.
        """
        self._begin(batch_size, ignore_stale_grad)
        if self.scaler is None or self.scaler.admits(self):
            self._exchange(batch_size)
        self._count(batch_size)
        self._course.stepped()

    def _exchange(self, batch_size: int) -> None:
        """Push what the gradients give, pull the weights; or what the strategy has in their place."""
        if self._kvstore is not None and not self._stepper.own_weights:
            self._kvstore.note_read()  # these are the weights that the gradients were computed from
        if probe.note is None:
            self._stepper.step(batch_size)
        else:
            with probe.span("exchange"):
                self._stepper.step(batch_size)

    def overlap(self, batch_size: int) -> AbstractContextManager[None]:
        """A context for the last backward pass before `step`: it sends gradients as soon as they are final.

        ::

            with trainer.overlap(len(x)):
                loss.backward()
            trainer.step(len(x))

        The step then returns without waiting: weights arrive while the program goes on, and are waited for where they
        are used next, through `Parameter.data`. The numbers are those of a step without it. Gradients that have left
        cannot be changed any more: clip them with the optimizer's ``clip_gradient`` or ``clip_norm``. `shoal.fit` does
        this by itself. Strategies with local steps, and the first step, send nothing early.

        Args:
            batch_size: what `step` will be given.
        Raises:
            ConfigError: an earlier such context was not followed by a step.
            AutogradError: in the context, a second pass delivers a gradient to a parameter.
        """
        _check_batch_size(batch_size)
        early = self._ready and self.scaler is None  # a scaled gradient leaves when all are known to be finite
        return self._stepper.overlap(batch_size) if early else nullcontext()

    def wait(self) -> None:
        """Wait until the weights of the last step have arrived; needed only by who has kept `Parameter.data` itself."""
        for p in self._site.params.values():
            p.data()

    def allreduce_grads(self) -> None:
        """Replace every gradient by its mean (or sum) over the workers; then change them as you like and `update`."""
        if not isinstance(self._stepper, Reduced):
            raise ConfigError(
                "allreduce_grads needs a kvstore and update_on_kvstore=False: the store applies the update"
            )
        self._prepare()
        self._stepper.reduce_gradients()

    def update(self, batch_size: int, ignore_stale_grad: bool = False) -> None:
        """Apply the optimizer here, to gradients that `allreduce_grads` has reduced; arguments and errors as `step`."""
        if self._on_store:
            raise ConfigError("update needs update_on_kvstore=False: the store applies the update in step()")
        self._begin(batch_size, ignore_stale_grad)
        if self.scaler is None or self.scaler.admits(self, together=False):  # what is reduced is the same everywhere
            self._site.update(self._site.gradients(batch_size))
        self._count(batch_size)
        self._course.stepped()

    def pull(self) -> None:
        """Read the store's present weights into the parameters.

        Under a strategy with local steps these are the global weights; steps since the last exchange are given up.
        """
        self._prepare()
        self._stepper.read()

    def finish(self) -> None:
        """Training is over: contribute what is still here, wait for everybody, and take over the global weights.

        Every worker calls it. `shoal.fit` does; a loop of your own should, before it evaluates. The run's digest is of
        the global weights, whether it is called or not.
        """
        if self._kvstore is None:
            return
        self._prepare()
        self._course.over = True
        self._stepper.finish()
        self._kvstore.barrier()
        self._stepper.read()

    @contextmanager
    def global_weights(self) -> Iterator[None]:
        """Within this context the parameters have the global weights as the store has them now: for evaluation.

        Afterwards they are this worker's own again, as strategies with local steps have them between exchanges; without
        such a strategy nothing is changed.
        """
        if not self._stepper.own_weights:
            yield
            return
        self._prepare()
        weights = self._site.weights()
        own = copied(weights)
        self._site.read(weights)
        try:
            yield
        finally:
            for name, p in self._site.params.items():
                p.set_data(own[name])

    def kept(self) -> Snapshot:
        """The global weights, what the optimizer keeps of them, and the place in the run: what `go_on` takes.

        One worker calls it, between two steps; the others go on meanwhile.

        Raises:
            StoreError: see `KVStore.snapshot`.
        """
        self._prepare()
        self.wait()
        found = self._stepper.kept()
        with self.global_weights():
            params = copied(self._site.weights()) if found.params is None else found.params
        return Snapshot(found.states, {**found.meta, **self._place()}, params)

    def go_on(self, kept: Snapshot) -> bool:
        """Before the first step, on every worker: begin where `kept` was taken, with the weights that parameters have.

        States of another optimizer or strategy are left out, with a warning. Hyper-parameters that were changed in the
        course of that run are as they had become, unless the script gives others now than it did then.

        Returns:
            Whether it does; false if this trainer has begun already.
        """
        if self._ready or self._behind:
            return False
        was, now = resuming.makers(kept.meta), resuming.makers(self._place())
        if was == now:
            self._site.optimizer = resuming.optimizer_of(kept.meta, self.optimizer, self._asked)
            self._stepper.begin_from({n: s for n, s in kept.states.items() if n in self._site.params})
        else:
            log.warning("the checkpoint has states of %s, this trainer is %s: they begin anew", was, now)
        self._behind = int(kept.meta.get("steps", 0))
        self._resume(self._steps)
        if self.scaler is not None and kept.meta.get("scaler"):
            self.scaler.load_state_dict(kept.meta["scaler"])
        return True

    def save_states(self, path: str | os.PathLike[str]) -> None:
        """Write weights, optimizer states and update counts, to go on from later (see `shoal.worker.checkpoint`).

        In a cluster one worker calls it, between two steps.

        Raises:
            ConfigError: there are states of which this kind of store, or of strategy, does not tell.
        """
        self._prepare()
        kept = self._stepper.snapshot()
        params = self._site.weights() if kept.params is None else kept.params
        save_checkpoint(path, params, kept.states, {**kept.meta, **self._place()})

    def load_states(self, path: str | os.PathLike[str]) -> None:
        """Go on from what `save_states` wrote. In a cluster every worker calls it, before the first step.

        Raises:
            CheckpointError: it is of another model, another optimizer or another strategy.
            ConfigError: the states belong on the servers of a cluster, and training has begun.
        """
        found, params = load_checkpoint(path), self._site.params
        was, now = resuming.makers(found.meta), resuming.makers(self._place())
        if found.params.keys() != params.keys() or was != now:
            raise CheckpointError(
                f"{os.fspath(path)!r} has {was} states of {sorted(found.params)}; this trainer is {now} for "
                f"{sorted(params)}"
            )
        kept = Snapshot(found.states, found.meta)
        if not self._ready and isinstance(self._stepper, OnStore):
            for name, p in params.items():
                p.set_data(found.params[name])
            self.go_on(kept)
            self._prepare()
            return
        self._prepare()
        self._stepper.restore(found.params, kept)
        for name, p in params.items():
            p.set_data(found.params[name])
        self._steps = int(found.meta["steps"])
        random.set_address(step=self._steps)

    def _place(self) -> dict[str, Any]:
        """Where this trainer is, and with what, for checkpoints."""
        altered = self._kvstore.altered if self._kvstore is not None and isinstance(self.strategy, Gradient) else {}
        spec = altered_optimizer(self.optimizer, altered).spec()
        place = {"steps": self._steps, "optimizer": spec.name, "strategy": self.strategy.name}
        scaler = {} if self.scaler is None else {"scaler": self.scaler.state_dict()}
        return {**place, "hyper": {"asked": self._asked, "now": spec.params}, **scaler}

    # --- inside -------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Once, when every shape is known: the store gets worker 0's weights, all get them back."""
        if self._ready:
            return
        for name, p in self._site.params.items():
            try:
                p.data()
            except DeferredInitializationError as e:
                todo = "run one batch through the model first"
                if not p.is_deferred:
                    todo = "it has no value: call initialize() on the model, and run one batch through it first"
                raise DeferredInitializationError(f"parameter {name!r}: {todo}") from e
        record.current().start()
        device = device_of(self._site)
        if device is not None and self._kvstore is not None and isinstance(self.strategy, Gradient):
            if not self._on_store:
                raise ConfigError(
                    "update_on_kvstore=False with parameters on a GPU: the store applies the update; leave it out"
                )
            self._stepper = OnDevice(self._site, device)
        self._stepper.prepare()
        self._ready = True

    def _begin(self, batch_size: int, ignore_stale_grad: bool) -> None:
        """Before a step: everything is in place, and the gradients are new."""
        _check_batch_size(batch_size)
        late = self._course.later and not self._ready and self._kvstore is not None
        self._course.start()
        self._prepare()
        if late:
            self._forget_gradients()
            return
        stale = [n for n, p in self._site.params.items() if not p.leaf().fresh]
        if stale and not ignore_stale_grad:
            raise AutogradError(
                f"no backward pass has delivered a gradient to {stale[:8]} since the last step, or ever: an old one "
                "would be applied again, or weight decay alone. Call backward() before step(). If the loss is meant to "
                "leave these parameters out, call step(batch_size, ignore_stale_grad=True)."
            )
        self._site.stale = frozenset(stale)

    def _adopt(self) -> None:
        """Before the first batch of a worker that comes later: the weights are the store's already."""
        if self._ready:
            self._stepper.read()
        elif self._shapes_known():
            self._prepare()

    def _shapes_known(self) -> bool:
        """Whether every parameter has a value; shapes that are not known yet are those of the store's keys."""
        store, waiting = self._kvstore, {n: p for n, p in self._site.params.items() if p.is_deferred}
        shapes = store.shapes() if waiting and isinstance(store, DistKVStore) else {}
        for name, p in waiting.items():
            if name in shapes and p.accepts(shapes[name]):
                p.shape = shapes[name]
                p.finish_init()
        return all(p.is_initialized for p in self._site.params.values())

    def _resume(self, steps: int) -> None:
        """Go on as a worker that has so many steps of this run behind it."""
        self._steps = self._behind + steps
        random.set_address(step=self._steps)

    def _forget_gradients(self) -> None:
        """Gradients that were computed before the weights had come do not count."""
        log.warning(
            "worker %d has joined a run that was under way, and computed its first gradients before it had the "
            "weights, because the shapes of its parameters were not known: they count as zero. Give the layers their "
            "input sizes, or run one batch through the model before the Trainer is made",
            cluster.rank(),
        )
        self._site.stale = frozenset(self._site.params)

    def _count(self, batch_size: int) -> None:
        """The step is done: gradients are old ones, random draws of the next step have an address of their own."""
        for p in self._site.params.values():
            p.leaf().fresh = False
        self._steps += 1
        random.set_address(step=self._steps)
        record.current().step(batch_size)


def _named(params: Any, optimizer_params: Any) -> Mapping[str, Parameter]:
    """The parameters by name."""
    if isinstance(params, Block):
        raise ConfigError(f"a Trainer needs parameters, got a {type(params).__name__}: pass net.collect_params()")
    if not isinstance(optimizer_params, Mapping | None):
        given = f"optimizer_params is {optimizer_params!r}"
        raise ConfigError(f"{given}, expected a mapping such as {{'learning_rate': 0.1}}")
    for p in params.values() if isinstance(params, Mapping) else params:
        if not isinstance(p, Parameter):
            raise ConfigError(f"a Trainer needs parameters, got a {type(p).__name__}: pass net.collect_params()")
    named = params if isinstance(params, Mapping) else {p.name: p for p in params}
    if not named:
        raise ConfigError("a Trainer needs parameters, got none: pass net.collect_params()")
    if not isinstance(params, Mapping) and len(named) != len(params):
        raise ConfigError("two parameters have the same name: pass net.collect_params(), whose names are unique")
    return named


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


def _check_batch_size(given: Any) -> None:
    """Raise unless gradients can be divided by it."""
    if not isinstance(given, int | float | np.number) or not 1 <= given < math.inf:
        raise ConfigError(f"batch_size is the number of samples of this step, at least 1; got {given!r}")


def _updates(store: KVStore | None) -> bool:
    """Whether the store can apply the optimizer."""
    return store is not None and store.is_capable("optimizer")


def _momentum(store: KVStore | None) -> float:
    """What ``momentum="auto"`` means with this store."""
    if store is None or not applies_at_once(store):
        return SYNC_MOMENTUM
    return lag_matched_momentum(SYNC_MOMENTUM, store.num_workers)


def _with_rate(spec: optim.OptimizerSpec, lr: float) -> optim.OptimizerSpec:
    return optim.OptimizerSpec(spec.name, {**spec.params, "learning_rate": float(lr)})


def _algorithm(algo: AlgoSpec | None, strategy: strategies.Spec | None, codec: Spec | None) -> Algo:
    """What the script asks for, and what it leaves open to the run.

    Raises:
        ConfigError: two of them say different things, or the parts do not go together.
    """
    asked = Algo() if algo is None else Algo.parse(algo)
    if isinstance(strategy, str):
        asked = asked.merged(Algo(strategy=strategy), "algo=", "strategy=")
    run = Algo.parse(cluster.current().algo)
    if codec is not None:
        asked = asked.merged(Algo(codec=Plan.of(codec).spec()), "algo=", "compression_params=")
    return asked.merged(run, "the script", "shoal run")
