"""Blocks: registration, paths, sharing, hooks, saving, messages."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import init, nn
from shoal.errors import CheckpointError, ConfigError, DeferredInitializationError, ShapeError, ShoalError
from shoal.ops import autograd
from shoal.ops.tensor import Tensor, array
from shoal.ops.tensorfile import load_tensors, save_tensors


class Scale(nn.HybridBlock):
    """y = x * weight; the weight has the length of the last axis."""

    def __init__(self, units: int = -1) -> None:
        super().__init__()
        self.weight = nn.Parameter("weight", shape=(units,), allow_deferred_init=True)

    def infer_shape(self, x: Any) -> None:
        self.weight.shape = (x.shape[-1],)

    def forward(self, x: Any) -> Any:
        return x * self.weight.data()


class Pair(nn.Block):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Scale(2), Scale(2)
        self.offset = nn.Parameter(shape=(2,), init="zeros")

    def forward(self, x: Any) -> Any:
        return self.left(x) + self.right(x) + self.offset.data()


def test_parameters_are_named_by_their_path() -> None:
    assert list(Pair().collect_params()) == ["offset", "left.weight", "right.weight"]


def test_initialize_tells_the_parameters_their_paths() -> None:
    net = Pair()
    net.initialize()
    assert [p.name for p in net.collect_params().values()] == ["offset", "left.weight", "right.weight"]


def test_collect_params_selects_by_expression() -> None:
    assert list(Pair().collect_params("left|offset")) == ["offset", "left.weight"]


def test_children_of_sequentials_are_named_by_number() -> None:
    net = nn.Sequential(Scale(2), nn.Sequential(Scale(2)))
    assert list(net.collect_params()) == ["0.weight", "1.0.weight"]


def test_initial_values_do_not_depend_on_other_layers() -> None:
    first, second = nn.Sequential(Scale(3)), nn.Sequential(Scale(3), Scale(5))
    first.initialize(seed=5)
    second.initialize(seed=5)
    np.testing.assert_array_equal(first[0].weight.data().asnumpy(), second[0].weight.data().asnumpy())


def test_deferred_values_equal_those_of_a_known_shape() -> None:
    known, deferred = nn.Sequential(Scale(3)), nn.Sequential(Scale())
    known.initialize(seed=5)
    deferred.initialize(seed=5)
    deferred(array([[1, 2, 3]]))
    np.testing.assert_array_equal(known[0].weight.data().asnumpy(), deferred[0].weight.data().asnumpy())


def test_another_seed_gives_other_values() -> None:
    net = Scale(3)
    net.initialize(seed=1)
    before = net.weight.data().asnumpy().copy()
    net.initialize(seed=2, force_reinit=True)
    assert not np.array_equal(before, net.weight.data().asnumpy())


def test_initialize_again_keeps_the_values() -> None:
    net = Scale(3)
    net.initialize(seed=1)
    before = net.weight.data().asnumpy().copy()
    net.initialize(seed=2)
    np.testing.assert_array_equal(before, net.weight.data().asnumpy())


def test_a_value_before_initialize_is_refused() -> None:
    with pytest.raises(DeferredInitializationError, match=r"'weight' has no value: call initialize"):
        Scale(3).weight.data()


def test_a_value_before_the_shape_is_known_is_refused_with_a_hint() -> None:
    net = Scale()
    net.initialize()
    with pytest.raises(DeferredInitializationError, match=r"'weight' waits for its shape \(-1,\): run one batch"):
        net.weight.data()


def test_a_layer_without_infer_shape_says_what_to_define() -> None:
    class Forgetful(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(shape=(-1,), allow_deferred_init=True)

        def forward(self, x: Any) -> Any:
            return x * self.weight.data()

    net = nn.HybridSequential(Forgetful())
    net.initialize()
    with pytest.raises(ShoalError, match=r"Forgetful '0' has parameters of unknown shape \(0\.weight\).*infer_shape"):
        net(array([1.0]))


def test_attributes_before_super_init_are_refused() -> None:
    class Early(nn.Block):
        def __init__(self) -> None:
            self.child = Scale(2)

    with pytest.raises(ConfigError, match=r"Early\.child is set before super\(\).__init__"):
        Early()


def test_a_child_cannot_become_something_else() -> None:
    net = Pair()
    with pytest.raises(ConfigError, match=r"Pair\.left is a Scale and cannot become a int"):
        net.left = 3  # type: ignore[assignment]


def test_a_child_can_be_replaced_by_another_block() -> None:
    net = Pair()
    net.left = nn.Sequential(Scale(2))  # type: ignore[assignment]
    assert list(net.collect_params()) == ["offset", "right.weight", "left.0.weight"]


def test_a_block_without_forward_says_so() -> None:
    with pytest.raises(TypeError, match="Block does not define forward"):
        nn.Block()(array([1.0]))


def test_a_shared_parameter_comes_once() -> None:
    net = Pair()
    net.right.share_parameters(net.left.collect_params())
    assert list(net.collect_params()) == ["offset", "left.weight"]
    assert net.right.weight is net.left.weight


def test_a_shared_parameter_sums_the_gradients_of_its_uses() -> None:
    net = Pair()
    net.right.share_parameters(net.left.collect_params())
    net.initialize(init.One())
    x = array([[1.0, 2.0]])
    with autograd.record():
        y = net(x).sum()
    y.backward()
    np.testing.assert_array_equal(net.left.weight.grad().asnumpy(), [2, 4])


def test_sharing_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no parameter 'bias' to share"):
        Scale(2).share_parameters({"bias": nn.Parameter()})


def test_hooks_see_inputs_and_outputs_and_can_be_detached() -> None:
    net, seen = Scale(2), []
    net.initialize(init.One())
    pre = net.register_forward_pre_hook(lambda block, args: seen.append(("pre", args[0].shape)))
    post = net.register_forward_hook(lambda block, args, out: seen.append(("post", out.shape)))
    net(array([[1.0, 2.0]]))
    pre.detach()
    post.detach()
    post.detach()
    net(array([[1.0, 2.0]]))
    assert seen == [("pre", (1, 2)), ("post", (1, 2))]


def test_a_hook_lasts_as_long_as_its_context() -> None:
    net, seen = Scale(1), []
    net.initialize()
    with net.register_forward_hook(lambda block, args, out: seen.append(1)):
        net(array([1.0]))
    net(array([1.0]))
    assert seen == [1]


def test_apply_visits_children_first() -> None:
    seen: list[str] = []
    nn.Sequential(Scale(1), nn.Flatten()).apply(lambda block: seen.append(type(block).__name__))
    assert seen == ["Scale", "Flatten", "Sequential"]


def test_setattr_reaches_every_parameter() -> None:
    net = Pair()
    net.setattr("lr_mult", 0.5)
    net.setattr("grad_req", "null")
    assert {p.lr_mult for p in net.collect_params().values()} == {0.5}
    assert {p.grad_req for p in net.collect_params().values()} == {"null"}


def test_cast_changes_values_and_gradients() -> None:
    net = Scale(2)
    net.initialize()
    net.cast("float64")
    assert net.weight.data().dtype == net.weight.grad().dtype == np.float64


def test_a_copy_is_independent() -> None:
    net = Pair()
    net.initialize()
    twin = copy.deepcopy(net)
    twin.left.weight.set_data(np.zeros(2))
    assert net.left.weight.data().asnumpy().any()
    assert not twin.left.weight.data().asnumpy().any()


def test_repr_shows_the_tree() -> None:
    assert repr(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Flatten()))) == (
        "Sequential(\n  (0): Flatten()\n  (1): Sequential(\n    (0): Flatten()\n  )\n)"
    )


def test_summary_is_a_table_of_the_layers_that_ran() -> None:
    net = nn.HybridSequential(nn.Dense(4, in_units=3), nn.Dense(2))
    net.initialize()
    net.hybridize()
    text = net.summary(array(np.ones((5, 3))))
    assert "0: Dense" in text and "(5, 4)" in text and "(5, 2)" in text
    assert text.endswith("26 parameters: 26 learned, 0 fixed")


def test_saved_parameters_come_back(tmp_path: Path) -> None:
    one, two = Pair(), Pair()
    one.initialize(seed=1)
    two.initialize(seed=2)
    one.save_parameters(tmp_path / "net.params")
    two.load_parameters(tmp_path / "net.params")
    for name, param in one.collect_params().items():
        np.testing.assert_array_equal(param.data().asnumpy(), two.collect_params()[name].data().asnumpy())


def test_loading_keeps_the_tensors_that_others_hold(tmp_path: Path) -> None:
    net = Scale(2)
    net.initialize()
    held = net.weight.data()
    save_tensors(tmp_path / "p", {"weight": np.array([5, 6], dtype="float32")})
    net.load_parameters(tmp_path / "p")
    assert net.weight.data() is held and held.tolist() == [5, 6]


def test_loading_completes_deferred_shapes(tmp_path: Path) -> None:
    net = Scale()
    save_tensors(tmp_path / "p", {"weight": np.array([5, 6], dtype="float32")})
    net.load_parameters(tmp_path / "p")
    assert net.weight.shape == (2,)
    assert net(array([1.0, 1.0])).tolist() == [5, 6]


def test_a_parameter_with_any_strides_is_saved_right(tmp_path: Path) -> None:
    net = Scale(3)
    net.initialize()
    net.weight.current().data = np.arange(6, dtype="float32")[::2]
    net.save_parameters(tmp_path / "p")
    assert load_tensors(tmp_path / "p")[0]["weight"].tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        ({"offset": (2,), "left.weight": (2,)}, {}, r"the file lacks 'right\.weight'"),
        ({"offset": (2,), "left.weight": (2,), "right.weight": (2,), "x": (1,)}, {}, r"the model lacks 'x'"),
        (
            {"offset": (2,), "left.weight": (7,), "right.weight": (2,)},
            {},
            r"'left\.weight' has shape \(2,\) in the model and \(7,\) in the file",
        ),
        ({"left.weight": (7,)}, {"allow_missing": True}, r"'left\.weight' has shape \(2,\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    tmp_path: Path, stored: dict[str, Any], options: dict[str, bool], message: str
) -> None:
    net = Pair()
    net.initialize(seed=3)
    before = {n: p.data().asnumpy().copy() for n, p in net.collect_params().items()}
    save_tensors(tmp_path / "p", {n: np.ones(s, dtype="float32") for n, s in stored.items()})
    with pytest.raises(CheckpointError, match=message):
        net.load_parameters(tmp_path / "p", **options)
    for name, param in net.collect_params().items():
        np.testing.assert_array_equal(param.data().asnumpy(), before[name])


def test_missing_and_extra_parameters_can_be_allowed(tmp_path: Path) -> None:
    net = Pair()
    net.initialize()
    save_tensors(tmp_path / "p", {"left.weight": np.ones(2, dtype="float32"), "x": np.ones(1)})
    net.load_parameters(tmp_path / "p", allow_missing=True, ignore_extra=True)
    assert net.left.weight.data().tolist() == [1, 1]


def test_another_dtype_is_refused_unless_cast(tmp_path: Path) -> None:
    net = Scale(2)
    net.initialize()
    save_tensors(tmp_path / "p", {"weight": np.ones(2)})
    with pytest.raises(CheckpointError, match="dtype float32 in the model and float64 in the file"):
        net.load_parameters(tmp_path / "p")
    net.load_parameters(tmp_path / "p", cast_dtype=True)
    assert net.weight.data().dtype == np.float32


def test_a_wrong_shape_at_a_layer_names_the_layer() -> None:
    net = nn.HybridSequential(nn.Dense(4, in_units=3), nn.Dense(2, in_units=4))
    net.initialize()
    with pytest.raises(ShapeError, match=r"Dense '0'.*3.*\(5, 7\)"):
        net(Tensor(np.ones((5, 7), dtype="float32")))
