"""What a trace would bake in is detected: numbers of tensors, draws of generators; values of tensors stay alive."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shoal.np
from shoal import nn
from shoal.errors import GraphError
from shoal.ops.tensor import Tensor

X = Tensor(np.array([1.0, 2.0, 3.0], dtype="float32"))


def block(forward: Callable[..., Any], **kept: Any) -> nn.HybridBlock:
    class Net(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return forward(self, x)

    net = Net()
    for name, value in kept.items():
        setattr(net, name, value)
    return net


DRAWS: list[tuple[str, Callable[..., Any], str]] = [
    ("float", lambda s, x: x * float(s.state.sum()), "a number"),
    ("item", lambda s, x: x * s.state[0].item(), "a number"),
    ("int", lambda s, x: x * int(s.state[0]), "a number"),
    ("if", lambda s, x: x if s.state.sum() > 0 else -x, "the truth value"),
    ("tolist", lambda s, x: x * s.state.tolist()[0], "the numbers"),
    ("asnumpy", lambda s, x: x * s.state.asnumpy(), "the values"),
    ("asarray", lambda s, x: x * np.asarray(s.state), "the values"),
    ("index", lambda s, x: x[int(s.state.astype("int64")[0])], "a number"),
]


@pytest.mark.parametrize(("forward", "what"), [d[1:] for d in DRAWS], ids=[d[0] for d in DRAWS])
def test_numbers_drawn_from_a_tensor_are_refused_with_the_line(forward: Callable[..., Any], what: str) -> None:
    net = block(forward, state=Tensor(np.ones(3, dtype="float32")))
    expected = net(X).asnumpy()
    net.hybridize()
    with pytest.raises(GraphError, match=f"test_trace.py:.*needs {what} of a tensor"):
        net(X)
    net.hybridize(strict=False)
    with pytest.warns(RuntimeWarning, match="runs imperatively"):
        np.testing.assert_array_equal(net(X).asnumpy(), expected)
    net.state[...] = 2.0
    changed = net(X).asnumpy()  # said once, and never baked in
    net.hybridize(False)
    np.testing.assert_array_equal(changed, net(X).asnumpy())


def test_what_is_computed_from_a_tensor_that_others_hold_is_computed_in_every_run() -> None:
    net = block(lambda s, x: x * (s.state * 2.0 + 1.0), state=Tensor(np.ones(3, dtype="float32")))
    net.hybridize()
    np.testing.assert_array_equal(net(X).asnumpy(), X.asnumpy() * 3)
    for value in (2.0, 5.0):
        net.state[...] = value
        np.testing.assert_array_equal(net(X).asnumpy(), X.asnumpy() * (value * 2 + 1))


def test_a_result_that_does_not_depend_on_the_arguments_is_computed_in_every_run() -> None:
    net = block(lambda s, x: (x + 1.0, s.state * 2.0), state=Tensor(np.ones(3, dtype="float32")))
    net.hybridize()
    for value in (1.0, 4.0):
        net.state[...] = value
        np.testing.assert_array_equal(net(X)[1].asnumpy(), np.full(3, value * 2))


def test_tensors_that_are_made_by_forward_itself_are_constants() -> None:
    net = block(lambda s, x: x * (shoal.np.arange(3).astype("float32") * 2.0))
    net.hybridize()
    assert len(net.trace(X).captured) == 0
    np.testing.assert_array_equal(net(X).asnumpy(), [0, 4, 12])


def test_an_array_that_somebody_else_holds_is_no_constant() -> None:
    kept = np.ones(3, dtype="float32")
    net = block(lambda s, x: x + Tensor(kept) * 1.0)
    net.hybridize()
    np.testing.assert_array_equal(net(X).asnumpy(), X.asnumpy() + 1)
    kept[...] = 7.0
    np.testing.assert_array_equal(net(X).asnumpy(), X.asnumpy() + 7)


@pytest.mark.parametrize(
    ("draw", "name"), [(random.random, "random"), (lambda: np.random.rand(), "numpy.random")], ids=["python", "numpy"]
)
def test_draws_of_global_generators_are_detected(
    draw: Callable[[], float], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = block(lambda s, x: x * draw())
    net.hybridize()
    monkeypatch.setattr("threading.active_count", lambda: 1)
    with pytest.raises(GraphError, match=f"drew numbers from {name};"):
        net(X)
    monkeypatch.setattr("threading.active_count", lambda: 2)
    with pytest.warns(RuntimeWarning, match="Unless another thread drew them"):
        net(X)


def test_reading_shapes_and_printing_are_no_draws(capsys: pytest.CaptureFixture[str]) -> None:
    def forward(self: Any, x: Any) -> Any:
        print(self.state)
        return x * float(self.state.shape[0]) + len(self.state)

    net = block(forward, state=Tensor(np.ones(3, dtype="float32")))
    net.hybridize()
    np.testing.assert_array_equal(net(X).asnumpy(), X.asnumpy() * 3 + 3)
    assert "Tensor(" in capsys.readouterr().out
