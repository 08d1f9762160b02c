"""Training checkpoints: a run that goes on from one gives the weights of a run that never stopped."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import CheckpointError
from shoal.ops import optim
from shoal.ops.tensorfile import load_tensors, save_tensors
from shoal.worker.checkpoint import load_checkpoint, load_parameters, save_checkpoint, save_parameters

PARAMS = {"dense0/weight": np.arange(6.0).reshape(2, 3), "bias": np.ones(3, "float32")}


def trained(params: dict[str, Any], states: dict[str, Any], rule: optim.Optimizer, steps: range) -> None:
    for step in steps:
        for name, value in params.items():
            rng = np.random.default_rng([step, len(name)])
            count, state = states.get(name) or (0, rule.init(value))
            rule.step(value, rng.normal(size=value.shape), state, count + 1)
            states[name] = (count + 1, state)


def copied(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() for name, value in params.items()}


def test_a_resumed_run_gives_the_same_bits_as_an_unbroken_one(tmp_path: Path) -> None:
    rule = optim.Adam(learning_rate=0.1, lr_scheduler=optim.CosineScheduler(max_update=8))
    unbroken, states = copied(PARAMS), dict[str, Any]()
    trained(unbroken, states, rule, range(8))

    first, states = copied(PARAMS), {}
    trained(first, states, rule, range(5))
    spec = rule.spec()
    save_checkpoint(tmp_path / "c", first, states, {"step": 5, "optimizer": [spec.name, spec.params]})

    found = load_checkpoint(tmp_path / "c")
    again = optim.create(found.meta["optimizer"][0], **found.meta["optimizer"][1])
    trained(found.params, found.states, again, range(found.meta["step"], 8))
    assert {k: v.tobytes() for k, v in found.params.items()} == {k: v.tobytes() for k, v in unbroken.items()}


def test_everything_comes_back(tmp_path: Path) -> None:
    states = {"bias": (7, {"mean": np.full(3, 0.5), "variance": np.zeros(3)}), "dense0/weight": (0, {})}
    meta = {"epoch": 3, "step": 11, "seed": 2**63, "rate": 0.1, "notes": ["a", {"b": None}]}
    save_checkpoint(tmp_path / "c", PARAMS, states, meta)
    found = load_checkpoint(tmp_path / "c")
    assert found.meta == meta
    assert found.params.keys() == PARAMS.keys()
    assert all(np.array_equal(found.params[k], v) and found.params[k].dtype == v.dtype for k, v in PARAMS.items())
    assert found.states.keys() == states.keys()
    assert found.states["dense0/weight"] == (0, {})
    assert found.states["bias"][0] == 7
    assert np.array_equal(found.states["bias"][1]["mean"], np.full(3, 0.5))


def test_a_checkpoint_without_states_is_one_too(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", PARAMS, {}, {})
    assert load_checkpoint(tmp_path / "c").states == {}


def test_saving_again_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path / "c", PARAMS, {}, {"epoch": epoch})
    assert load_checkpoint(tmp_path / "c").meta == {"epoch": 2}
    assert os.listdir(tmp_path) == ["c"]


def test_parameters_alone_can_be_saved_and_loaded(tmp_path: Path) -> None:
    save_parameters(tmp_path / "p", PARAMS, {"model": "mlp"})
    found = load_parameters(tmp_path / "p")
    assert all(np.array_equal(found[k], v) for k, v in PARAMS.items())
    assert load_tensors(tmp_path / "p")[1] == {"model": "mlp"}


def test_the_parameters_of_a_checkpoint_can_be_loaded_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", PARAMS, {"bias": (1, {"momentum": np.zeros(3)})}, {})
    assert load_parameters(tmp_path / "c").keys() == PARAMS.keys()


def test_states_of_unknown_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"states of \['weigth'\], which are no parameters"):
        save_checkpoint(tmp_path / "c", PARAMS, {"weigth": (1, {})}, {})


@pytest.mark.parametrize("meta", [{"epoch": np.int64(3)}, {"net": object()}])
def test_meta_that_json_cannot_hold_is_refused(meta: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot save .*meta may hold Python's numbers"):
        save_checkpoint(tmp_path / "c", PARAMS, {}, meta)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*last\.ckpt"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", PARAMS, {}, {})
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "c")


def test_a_file_of_parameters_is_no_checkpoint(tmp_path: Path) -> None:
    save_parameters(tmp_path / "p", PARAMS)
    with pytest.raises(CheckpointError, match="is no training checkpoint: read it with load_parameters"):
        load_checkpoint(tmp_path / "p")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "c", {}, {"shoal.checkpoint": "2"})
    with pytest.raises(CheckpointError, match="has checkpoint format 2, this version of shoal reads 1"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("param/w", {}),
        ("param/w", {"shoal.meta": "{", "shoal.updates": "{}"}),
        ("state/mean/w", {"shoal.meta": "{}", "shoal.updates": "{}"}),
        ("other/w", {"shoal.meta": "{}", "shoal.updates": "{}"}),
    ],
)
def test_an_inconsistent_checkpoint_is_refused_by_name(name: str, texts: dict[str, str], tmp_path: Path) -> None:
    save_tensors(tmp_path / "c", {name: np.zeros(1)}, {"shoal.checkpoint": "1", **texts})
    with pytest.raises(CheckpointError, match=r"c' is damaged"):
        load_checkpoint(tmp_path / "c")
