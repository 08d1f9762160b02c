"""The models that benchmarks and graphs use."""

import numpy as np
import pytest

from shoal import autograd, init, nn
from shoal.errors import ConfigError
from shoal.ops.tensor import Tensor
from shoal.worker import zoo

PARAMS = {"mlp": 535_818, "lenet": 61_706, "resnet20": 272_474, "lstm": 6_182_672, "gpt": 7_296_320}


def test_every_model_has_a_batch_and_its_parameters() -> None:
    for name in zoo.MODELS:
        net, inputs, labels = zoo.build(name)
        net.initialize(init.Xavier())
        found = net.trace(inputs)
        learned = [p for p in net.collect_params().values() if p.grad_req != "null"]
        assert sum(p.data().size for p in learned) == PARAMS[name]
        assert found.outputs[0].shape == (labels.shape[0], zoo.MODELS[name][2])


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="resnet20"):
        zoo.build("resnet21")


@pytest.mark.parametrize("name", ["mlp", "lstm", "gpt"])
def test_small_ones_give_the_same_gradients_as_graphs(name: str) -> None:
    rng = np.random.default_rng(0)
    net = {
        "mlp": zoo.mlp,
        "lstm": lambda: zoo.lstm(vocabulary=11, units=8),
        "gpt": lambda: zoo.gpt(vocabulary=11, units=8, heads=2, layers=2, length=5),
    }[name]()
    x = Tensor(rng.integers(0, 11, (3, 5)) if name != "mlp" else rng.standard_normal((15, 6)).astype("float32"))
    labels, loss_of = Tensor(rng.integers(0, 10, 15)), nn.SoftmaxCrossEntropyLoss()
    net.initialize(init.Xavier())
    net(x)
    grads = []
    for _ in range(2):
        with autograd.record():
            loss = loss_of(net(x), labels).mean()
        loss.backward()
        grads.append([p.grad().asnumpy().copy() for p in net.collect_params().values() if p.grad_req != "null"])
        net.hybridize()
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
