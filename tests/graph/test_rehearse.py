"""Rehearsals: kernels that sum in another order are there from the first run on."""

from typing import Any

import numpy as np
import pytest

from shoal import init, linalg, nn
from shoal.ops import autograd
from shoal.ops.backend import CPU
from shoal.ops.graph import kernels
from shoal.ops.graph.executor import Program
from shoal.ops.graph.rehearse import rehearse
from shoal.ops.graph.symbol import flatten, variable
from shoal.ops.native import compiler
from shoal.ops.registry import OPS, Spec
from shoal.ops.tensor import Tensor

needs_compiler = pytest.mark.skipif(bool(compiler.why_not()), reason="no C compiler")
F4 = np.dtype("float32")


def net() -> nn.HybridSequential:
    made = nn.HybridSequential(
        nn.Conv2D(5, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2), nn.Flatten(), nn.Dense(3)
    )
    made.initialize(init.Xavier(), seed=1)
    return made


def gradients(block: nn.HybridSequential, images: Any) -> list[bytes]:
    with autograd.record():
        out = block(Tensor(images))
        loss = (out * out).sum()
    loss.backward()
    return [p.grad().asnumpy().tobytes() for p in block.collect_params().values() if p.grad_req != "null"]


IMAGES = np.random.default_rng(0).standard_normal((4, 2, 8, 8)).astype("float32")


@needs_compiler
def test_all_runs_have_the_same_bits_the_first_one_too() -> None:
    with kernels.exactly(False):
        block = net()
        block.hybridize()
        first = gradients(block, IMAGES)
        for _ in range(2):
            assert gradients(block, IMAGES) == first
        again = net()  # as after a restart
        again.hybridize()
        assert gradients(again, IMAGES) == first


@needs_compiler
def test_kernels_are_as_right_as_the_operators() -> None:
    hybrid, plain = net(), net()
    hybrid.hybridize()
    with kernels.exactly(False):
        got = gradients(hybrid, IMAGES)
    for a, b in zip(got, gradients(plain, IMAGES), strict=True):
        np.testing.assert_allclose(np.frombuffer(a, "f4"), np.frombuffer(b, "f4"), rtol=1e-4, atol=1e-4)


@needs_compiler
def test_every_memory_order_of_the_input_gives_the_same() -> None:
    with kernels.exactly(False):
        block = net()
        block.hybridize()
        first = gradients(block, IMAGES)
        last = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        assert gradients(block, last) == first
        again = net()
        again.hybridize()
        assert gradients(again, last) == first


def test_an_operator_that_refuses_stand_ins_is_looked_at_in_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_INEXACT", {"matmul"})
    x = variable("x", Spec((3, 3), F4))
    out = linalg.cholesky(OPS["matmul"](x, x) + 1.0 * x)
    graph, _ = flatten([out], [x])
    a = np.eye(3, dtype="float32") * 2
    assert rehearse(graph, CPU, [a - a]) is None
    with kernels.exactly(False):
        program = Program(graph, CPU)
        for _ in range(3):
            np.testing.assert_allclose(program(a)[0], np.linalg.cholesky(a @ a + a), rtol=1e-6)


def test_a_rehearsal_finds_the_strides_that_a_run_has() -> None:
    symbols = [variable("x", Spec((2, 3, 6, 6), F4)), variable("w", Spec((4, 3, 3, 3), F4))]
    y = OPS["convolution"](*symbols, pad=1)
    outs = [OPS["relu"](y), OPS["max_pool"](OPS["relu"](y), kernel=2), OPS["reshape"](y, shape=(2, -1))]
    graph, _ = flatten(outs, symbols)
    arrays = [np.ones(s.shape, F4) for s in symbols]
    found = rehearse(graph, CPU, arrays)
    program = Program(graph, CPU)
    with kernels.exactly():
        program(*arrays)
    assert found is not None
    assert found.strides == program.layout.strides
    assert found.shared == program.layout.shared


def test_cotangents_are_taken_to_lie_as_the_outputs_that_they_belong_to() -> None:
    x, w = variable("x", Spec((2, 3, 6, 6), F4)), variable("w", Spec((4, 3, 3, 3), F4))
    y = OPS["convolution"](x, w, pad=1)
    head = variable("head", y.spec)
    flat = OPS["sum"](y, axis=(2, 3))
    graph, _ = flatten([flat, y, OPS["convolution_weight"](head, x, kernel=(3, 3), pad=1)], [x, w, head])
    found = rehearse(graph, CPU, [np.ones(s.shape, F4) for s in (x, w)])
    assert found is not None
    assert found.strides[graph.inputs[2], 0] == found.strides[graph.outputs[1]] == (576, 4, 96, 16)
