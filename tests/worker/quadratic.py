"""Workers in threads that train f(w) = w^2 / 2, whose gradient is w, through real stores."""

from collections.abc import Callable
from typing import Any

import numpy as np

import shoal
from shoal.kvstore.api import KVStore
from shoal.ops.nn.parameter import Parameter
from tests.kvstore.threads import thread_cluster


def parameter(name: str = "w", value: Any = (1.0,), **options: Any) -> Parameter:
    array = np.asarray(value, np.float64)
    p = Parameter(name, shape=array.shape, dtype="float64", **options)
    p.initialize(shoal.init.Zero())
    p.set_data(array)
    return p


class Worker:
    """One worker with one parameter.

    Args:
        store: its end of the store.
        strategy: text for `Trainer`.
        start: the first value.
        gradient: of the present value; by default of f.
    """

    def __init__(
        self,
        store: KVStore,
        strategy: Any,
        lr: float = 0.1,
        start: float = 1.0,
        gradient: Callable[[float], float] | None = None,
        optimizer: str = "sgd",
        **options: Any,
    ) -> None:
        self.p, self.gradient = parameter(value=[start]), gradient or (lambda w: w)
        params = {"learning_rate": lr, **options}
        self.trainer = shoal.Trainer({"w": self.p}, optimizer, params, kvstore=store, strategy=strategy)

    @property
    def value(self) -> float:
        return float(self.p.data().asnumpy()[0])

    def step(self, count: int = 1) -> float:
        """Take steps; the value after them."""
        for _ in range(count):
            self.p.grad().data[:] = self.gradient(self.value)
            self.trainer.step(1)
        return self.value


def values(steps: int, workers: int, strategy: Any, reduce: str = "mean", servers: int = 2, **options: Any) -> Any:
    """The value after each step on each worker of a synchronous cluster, as an array (workers, steps)."""

    def work(store: KVStore) -> list[float]:
        worker = Worker(store, strategy, **options)
        return [worker.step() for _ in range(steps)]

    with thread_cluster(workers, servers) as cluster:
        return np.array(cluster.each(work, reduce=reduce))
