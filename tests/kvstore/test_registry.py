"""Stores that users write: found by name, used by everything that takes a store."""

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError, KeyNotInitializedError
from shoal.kvstore import registry
from shoal.kvstore.api import create
from shoal.kvstore.base import KVStoreBase


@shoal.kv.register("test-doubling")
class Doubling(KVStoreBase):
    """Alone, and twice what was pushed: a store in a few lines."""

    rank, num_workers = 0, 1

    def __init__(self, reduce: str = "mean", factor: float = 2.0) -> None:
        super().__init__(reduce)
        self.factor = factor

    def broadcast_array(self, key: str, array: np.ndarray) -> None:
        """Worker 0's is this one's."""

    def reduce_array(self, key: str, array: np.ndarray) -> None:
        array *= self.factor


def test_a_registered_store_is_created_by_its_name() -> None:
    kv = create("test-doubling")
    assert isinstance(kv, Doubling) and kv.type == "test-doubling"
    assert repr(kv) == "<kvstore 'test-doubling', worker 0 of 1, reduce 'mean'>"


def test_options_reach_the_store_and_wrong_ones_are_named() -> None:
    kv = create("test-doubling", reduce="sum", factor=3.0)
    kv.init("w", np.ones(2))
    assert kv.reduce == "sum" and kv.pushpull("w", np.ones(2)).tolist() == [3.0, 3.0]
    with pytest.raises(ConfigError, match=r"kvstore 'test-doubling': got an unexpected keyword argument 'speed'"):
        create("test-doubling", speed=1)
    with pytest.raises(ConfigError, match="'local': got an unexpected keyword argument 'workers'"):
        create("local", workers=2)


def test_an_unknown_name_lists_the_registered_ones_too() -> None:
    with pytest.raises(ConfigError, match=r"known: auto, local, .*test-doubling.* Did you mean 'test-doubling'"):
        create("test-doublin")
    with pytest.raises(ConfigError, match="Did you mean 'allreduce'"):
        create("horovod")


def test_what_such_a_store_cannot_do_is_refused_with_the_reason() -> None:
    kv = create("test-doubling")
    assert not kv.is_capable("optimizer")
    with pytest.raises(ConfigError, match="the update is made on the workers"):
        kv.set_optimizer(shoal.optim.create("sgd"))
    with pytest.raises(ConfigError, match="use pushpull"):
        kv.push("w", np.ones(1))
    with pytest.raises(ConfigError, match="codecs make cannot be added"):
        kv.set_gradient_compression("2bit")
    with pytest.raises(ConfigError, match="rows need servers"):
        kv.init("w", np.ones((2, 2)), rows=True)


def test_a_pull_reads_the_first_value_until_the_key_is_reduced() -> None:
    kv = create("test-doubling")
    with pytest.raises(KeyNotInitializedError):
        kv.pull("w")
    kv.init("w", np.arange(3.0))
    assert kv.pull("w").tolist() == [0.0, 1.0, 2.0] and kv.keys() == ["w"]
    kv.pushpull_async("w", np.ones(3)).result()
    with pytest.raises(ConfigError, match="holds no values once they are reduced"):
        kv.pull("w")


def test_every_form_of_value_comes_to_the_two_methods_as_an_array() -> None:
    kv = create("test-doubling")
    kv.init(["a", "b"], [np.ones(2), shoal.np.array([1.0, 1.0])])
    out = np.zeros(2)
    value = np.ones(2)
    assert kv.pushpull("a", value, out) is out and out.tolist() == [2.0, 2.0] and value.tolist() == [1.0, 1.0]
    tensor = shoal.np.array([3.0])
    kv.init(7, tensor)
    assert kv.pushpull(7, tensor) is tensor and tensor.tolist() == [6.0]
    devices = kv.pushpull(["a", "b"], [[np.ones(2), np.ones(2)], np.ones(2)])
    assert [d.tolist() for d in devices] == [[4.0, 4.0], [2.0, 2.0]]
    kv.barrier()
    kv.close()


@pytest.mark.parametrize("name", ["local", "dist", "dist_mine", "allreduce", "auto", "hogwild"])
def test_the_names_of_shoals_own_stores_are_taken(name: str) -> None:
    with pytest.raises(ConfigError, match="own stores"):
        registry.register(name)


@pytest.mark.parametrize("name", ["", "Mine", "a b", "a:b"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case"):
        registry.register(name)


def test_two_classes_cannot_have_one_name_but_one_may_be_defined_again() -> None:
    registry.register("test-doubling")(Doubling)
    with pytest.raises(ConfigError, match="already"):
        registry.register("test-doubling")(type("Other", (Doubling,), {}))
    with pytest.raises(ConfigError, match="no KVStore"):
        registry.register("test-none")(dict)  # type: ignore[type-var]
