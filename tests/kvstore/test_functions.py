"""Server functions: by name, where the slices lie, once if they write; and what fails, fails where it should."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, RemoteError
from shoal.kvstore import functions
from shoal.kvstore.functions import MAX_RESULT_BYTES, PartView, plain, server_function
from shoal.kvstore.local import LocalKVStore
from shoal.ops import optim
from tests.kvstore.threads import thread_cluster

SLICES = {"small": 4, "large": 600_000}


@server_function("squares-of-tests")
def squares(part: PartView) -> float:
    return float(part.value.astype(np.float64) @ part.value)


@server_function("where-of-tests")
def where(part: PartView, **args: Any) -> Any:
    return [part.key, part.start, part.stop, part.version, part.clock, part.value.flags.writeable, args]


@server_function("histogram-of-tests")
def histogram(part: PartView, bins: int) -> Any:
    counts, edges = np.histogram(part.value, bins)
    return {"counts": counts, "edges": edges}


@server_function("scale-of-tests", writes=True)
def scale(part: PartView, factor: float) -> int:
    part.value *= np.float32(factor)
    return part.stop - part.start


@server_function("fail-of-tests")
def fail(part: PartView) -> None:
    raise ValueError(f"no {part.key} today")


@server_function("spoil-of-tests")
def spoil(part: PartView) -> None:
    part.value[0] = 1.0


def filled(kv: Any) -> Any:
    for name, size in SLICES.items():
        kv.init(name, np.arange(size, dtype=np.float32) % 7)
    return kv


def test_a_norm_is_the_sum_over_the_slices_of_every_server() -> None:
    with thread_cluster(1, 2) as cluster:

        def work(kv: Any) -> Any:
            filled(kv)
            return {n: sum(kv.call("squares-of-tests", n)) for n in SLICES}, len(kv.layout("large").slices)

        ((found, slices),) = cluster.each(work)
    assert slices > 1
    assert found == {n: float(np.sum((np.arange(size) % 7) ** 2)) for n, size in SLICES.items()}


def test_results_come_in_the_order_of_keys_and_slices_with_what_the_function_sees() -> None:
    with thread_cluster(1, 2) as cluster:

        def work(kv: Any) -> Any:
            filled(kv).pushpull("small", np.zeros(4, np.float32))
            return kv.call("where-of-tests", ["large", "small"], a=1), kv.layout("large").slices

        ((found, slices),) = cluster.each(work)
    assert found[:-1] == [["large", s.start, s.stop, 0, 0, False, {"a": 1}] for s in slices]
    assert found[-1] == ["small", 0, 4, 1, 1, False, {"a": 1}]


def test_fused_keys_are_parts_of_one_slice() -> None:
    with thread_cluster(1, 1) as cluster:

        def work(kv: Any) -> Any:
            kv.init(["p", "q"], [np.full(3, 2, np.float32), np.full(2, 3, np.float32)], fuse=True)
            return kv.call("squares-of-tests", ["p", "q"])

        assert cluster.each(work) == [[12.0, 18.0]]


def test_numpy_results_are_plain_data() -> None:
    (found,) = filled(LocalKVStore()).call("histogram-of-tests", "small", bins=2)
    assert found == {"counts": [2, 2], "edges": [0.0, 1.5, 3.0]}


def test_a_function_that_writes_runs_once_for_all_workers() -> None:
    with thread_cluster(3, 2) as cluster:

        def work(kv: Any) -> Any:
            filled(kv)
            kv.push("small", np.ones(4, np.float32))
            sizes = kv.call("scale-of-tests", factor=0.5)
            return sum(sizes), kv.pull("small").tolist()

        assert cluster.each(work) == [(600_004, [0.5] * 4)] * 3


def test_workers_that_write_differently_are_told_so() -> None:
    with thread_cluster(2, 1) as cluster:

        def work(kv: Any) -> Any:
            filled(kv)
            try:
                kv.call("scale-of-tests", factor=float(kv.rank))
            except ConfigError as e:
                return str(e)
            return ""

        answers = cluster.each(work)
    assert sorted(map(bool, answers)) == [False, True] and "in the same way" in "".join(answers)


@pytest.mark.parametrize("name", ["squares-of-tests", "scale-of-tests", "where-of-tests"])
def test_a_local_store_runs_them_too(name: str) -> None:
    kv = filled(LocalKVStore())
    args = {"factor": 2.0} if "scale" in name else {}
    assert len(kv.call(name, ["small", "large"], **args)) == 3
    assert kv.pull("small").tolist() == [x * args.get("factor", 1.0) for x in range(4)]


def test_states_are_seen_beside_values() -> None:
    @server_function("states-of-tests")
    def states(part: PartView) -> Any:
        return {n: a.shape for n, a in part.state.items()}

    kv = LocalKVStore()
    kv.init("a", np.ones((2, 3), np.float32))
    kv.set_optimizer(optim.create("sgd", momentum=0.9))
    assert list(kv.call("states-of-tests")[0].values()) == [[6]]


def test_an_unknown_function_is_refused_with_those_that_are_known_and_how_to_load_it() -> None:
    with pytest.raises(ConfigError, match=r"called 'norms'.*squares-of-tests.*--plugin FILE"):
        filled(LocalKVStore()).call("norms")


def test_a_function_that_fails_is_the_callers_error_with_the_servers_traceback_and_the_store_goes_on() -> None:
    with thread_cluster(2, 1) as cluster:

        def work(kv: Any) -> Any:
            filled(kv)
            text = ""
            if kv.rank == 1:
                with pytest.raises(RemoteError) as e:
                    kv.call("fail-of-tests", "small")
                text = str(e.value)
            return text, kv.pushpull("small", np.ones(4, np.float32)).tolist()

        (nothing, first), (text, second) = cluster.each(work)
        assert not cluster.shells[0].failure()
    assert first == second == [1.0] * 4 and not nothing
    assert "server function 'fail-of-tests' failed on server 0: ValueError: no small today" in text
    assert "Traceback" in text and "in fail" in text


def test_a_function_that_may_only_read_cannot_write() -> None:
    kv = filled(LocalKVStore())
    with pytest.raises(ValueError, match="read-only"):
        kv.call("spoil-of-tests", "small")


@pytest.mark.parametrize("value", [object(), {1: 2}, [[[[[[[1]]]]]]], {"a": {1, 2}}])
def test_what_is_not_plain_does_not_travel(value: Any) -> None:
    with pytest.raises(ConfigError, match="expected None, numbers, text"):
        plain(value, "f")


def test_large_results_are_refused() -> None:
    with pytest.raises(ConfigError, match="Pull the key instead"):
        plain(np.zeros(MAX_RESULT_BYTES // 8 + 1), "f")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ConfigError, match="is already"):
        server_function("fail-of-tests")(lambda part: None)
    with pytest.raises(ConfigError, match="lower-case"):
        server_function("No Name")
    assert "fail-of-tests" in functions.names()
