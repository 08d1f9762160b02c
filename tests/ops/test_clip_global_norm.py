"""Gradients of a model that are clipped together, beside PyTorch's."""

import numpy as np
import pytest
import torch

import shoal
from shoal import autograd, nn
from shoal.errors import ConfigError
from shoal.optim import clip_global_norm


@pytest.mark.parametrize("max_norm", [0.1, 3.0, 1e6])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_it_is_pytorchs(max_norm: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((3, 4), (7,), (0,), ())]
    theirs = [torch.nn.Parameter(torch.zeros(a.shape, dtype=getattr(torch, dtype))) for a in arrays]
    for t, a in zip(theirs, arrays, strict=True):
        t.grad = torch.from_numpy(a.copy())
    ours = [shoal.np.array(a, dtype=dtype) for a in arrays]
    norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    rtol = 2e-3 if dtype == "float16" else 1e-5
    assert clip_global_norm(ours, max_norm) == pytest.approx(norm.item(), rel=rtol)
    for a, t in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.asnumpy(), t.grad.numpy(), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_moves_by_no_more_than_the_bound(sparse: bool) -> None:
    net = nn.Embedding(6, 2, sparse_grad=sparse)
    net.initialize(shoal.init.One())
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 1.0})
    with autograd.record():
        loss = (net(shoal.np.array([1, 1, 4], dtype="int32")) * 10.0).sum()
    loss.backward()
    before = net.weight.data().asnumpy().copy()
    assert clip_global_norm([net.weight.grad()], 0.5) == pytest.approx(np.sqrt(2 * 20**2 + 2 * 10**2))
    trainer.step(1)
    assert np.linalg.norm(net.weight.data().asnumpy() - before) == pytest.approx(0.5, rel=1e-5)


def test_what_is_not_finite_is_said_and_left_as_it_is() -> None:
    array = shoal.np.array([np.inf, 1.0])
    with pytest.raises(FloatingPointError, match="the norm of the 1 arrays is inf"):
        clip_global_norm([array], 1.0)
    assert clip_global_norm([array], 1.0, check_isfinite=False) == np.inf
    assert array.asnumpy().tolist() == [np.inf, 1.0]


def test_what_cannot_be_clipped_is_refused() -> None:
    with pytest.raises(ConfigError, match="expects arrays"):
        clip_global_norm([], 1.0)
    with pytest.raises(ConfigError, match="max_norm is 0"):
        clip_global_norm([shoal.np.ones(1)], 0)
