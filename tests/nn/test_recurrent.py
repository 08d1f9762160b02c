"""Recurrent layers and cells, against PyTorch's and against each other."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from shoal import autograd, npx, random, rnn
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor

LAYERS: dict[str, tuple[Any, Any]] = {
    "rnn": (
        lambda **o: rnn.RNN(6, 2, "tanh", **o),
        lambda **o: torch.nn.RNN(4, 6, 2, **o),
    ),
    "lstm": (lambda **o: rnn.LSTM(6, 2, **o), lambda **o: torch.nn.LSTM(4, 6, 2, **o)),
    "projected": (
        lambda **o: rnn.LSTM(6, 2, projection_size=3, **o),
        lambda **o: torch.nn.LSTM(4, 6, 2, proj_size=3, **o),
    ),
    "gru": (lambda **o: rnn.GRU(6, 2, **o), lambda **o: torch.nn.GRU(4, 6, 2, **o)),
}


def pair(name: str, bidirectional: bool = False, layout: str = "TNC", **options: Any) -> tuple[Any, Any]:
    """Our layer with the weights of PyTorch's, and PyTorch's; float64."""
    torch.manual_seed(0)
    ours, theirs = LAYERS[name]
    peer = theirs(bidirectional=bidirectional, batch_first=layout == "NTC").double()
    layer = ours(bidirectional=bidirectional, layout=layout, input_size=4, dtype="float64", **options)
    layer.initialize()
    layer.load_torch(peer.state_dict())
    return layer, peer


def inputs(layout: str = "TNC") -> Any:
    x = np.random.default_rng(0).standard_normal((5, 3, 4))
    return x if layout == "TNC" else x.swapaxes(0, 1).copy()


@pytest.mark.parametrize("layout", ["TNC", "NTC"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_the_values_and_gradients_of_pytorch(name: str, bidirectional: bool, layout: str) -> None:
    layer, peer = pair(name, bidirectional, layout)
    x = Tensor(inputs(layout))
    x.attach_grad()
    tx = torch.tensor(x.asnumpy(), requires_grad=True)
    states = [Tensor(np.random.default_rng(1).standard_normal(i["shape"])) for i in layer.state_info(3)]
    first = [torch.tensor(s.asnumpy()) for s in states]
    with autograd.record():
        y, last = layer(x, states)
        ((y * y).sum() + sum(s.sum() for s in last)).backward()
    ty, tlast = peer(tx, tuple(first) if len(first) == 2 else first[0])
    tlast = tlast if isinstance(tlast, tuple) else (tlast,)
    ((ty * ty).sum() + sum(s.sum() for s in tlast)).backward()
    np.testing.assert_allclose(y.asnumpy(), ty.detach().numpy(), atol=1e-12)
    for a, b in zip(last, tlast, strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(x.grad.asnumpy(), tx.grad.numpy(), atol=1e-11)
    np.testing.assert_allclose(layer.l1_h2h_weight.grad().asnumpy(), peer.weight_hh_l1.grad.numpy(), atol=1e-11)
    np.testing.assert_allclose(layer.l0_i2h_bias.grad().asnumpy(), peer.bias_ih_l0.grad.numpy(), atol=1e-11)


@pytest.mark.parametrize("name", LAYERS)
def test_sequences_of_different_lengths_are_those_of_pytorch_in_both_directions(name: str) -> None:
    layer, peer = pair(name, True, use_sequence_length=True)
    lengths = [5, 3, 1]
    y, last = layer(Tensor(inputs()), [Tensor(s.asnumpy()) for s in layer.begin_state(3, "float64")], lengths)
    ty, tlast = peer(pack_padded_sequence(torch.tensor(inputs()), torch.tensor(lengths)))
    np.testing.assert_allclose(y.asnumpy(), pad_packed_sequence(ty, total_length=5)[0].detach().numpy(), atol=1e-12)
    for a, b in zip(last, tlast if isinstance(tlast, tuple) else (tlast,), strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_a_hybridized_layer_gives_the_same_bits(name: str) -> None:
    layer, _ = pair(name, True)
    results = []
    for active in (False, True, True):
        layer.hybridize(active)
        x = Tensor(inputs())
        x.attach_grad()
        with autograd.record():
            y = layer(x)
            (y * y).sum().backward()
        results.append((y.asnumpy(), x.grad.asnumpy(), layer.r1_i2h_weight.grad().asnumpy().copy()))
    for other in results[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_the_fused_operator_of_mxnet_takes_the_parameters_in_one_vector(name: str) -> None:
    layer, _ = pair(name, True)
    x, states = Tensor(inputs()), layer.begin_state(3, "float64")
    y, *last = npx.rnn(
        x,
        layer.fused_parameters(),
        *states,
        mode=layer.mode,
        state_size=6,
        num_layers=2,
        bidirectional=True,
        state_outputs=True,
        projection_size=layer.projection_size,
    )
    expected, ends = layer(x, states)
    for a, b in zip([y, *last], [expected, *ends], strict=True):
        assert a.asnumpy().tobytes() == b.asnumpy().tobytes()
    layer.load_fused_parameters(layer.fused_parameters() * 0.5)
    assert not np.allclose(layer(x).asnumpy(), y.asnumpy())


def test_dropout_acts_between_layers_and_in_training_only() -> None:
    random.seed(3)
    layer = rnn.GRU(8, 2, dropout=0.5, input_size=4)
    layer.initialize()
    x = Tensor(inputs().astype("f"))
    with autograd.train_mode():
        a, b = layer(x).asnumpy(), layer(x).asnumpy()
    assert not np.array_equal(a, b)
    assert np.array_equal(layer(x).asnumpy(), layer(x).asnumpy())


def test_the_input_size_is_inferred_and_shown() -> None:
    layer = rnn.LSTM(6, bidirectional=True)
    layer.initialize()
    layer(Tensor(inputs().astype("f")))
    assert layer.r0_i2h_weight.shape == (24, 4)
    assert repr(layer) == "LSTM(4 -> 6, TNC, bidirectional)"


def test_misuse_of_a_layer_is_named() -> None:
    layer = rnn.LSTM(6, input_size=4)
    layer.initialize()
    x = Tensor(inputs().astype("f"))
    with pytest.raises(ConfigError, match="use_sequence_length=False, and called with"):
        layer(x, None, np.array([1, 2, 3]))
    with pytest.raises(ShapeError, match="has 2 states, got 1"):
        layer(x, layer.begin_state(3)[0])
    with pytest.raises(ShapeError, match="wants three axes"):
        layer(x[0])
    with pytest.raises(ConfigError, match=r"missing .'bias_hh_l0'.*unknown .'nonsense'"):
        layer.load_torch({"weight_ih_l0": 0, "weight_hh_l0": 0, "bias_ih_l0": 0, "nonsense": 0})
    with pytest.raises(ConfigError, match="layout"):
        rnn.GRU(3, layout="NCT")


CELLS: dict[str, tuple[Any, Any]] = {
    "rnn": (lambda: rnn.RNNCell(6, input_size=4, dtype="float64"), lambda: torch.nn.RNNCell(4, 6)),
    "lstm": (lambda: rnn.LSTMCell(6, input_size=4, dtype="float64"), lambda: torch.nn.LSTMCell(4, 6)),
    "gru": (lambda: rnn.GRUCell(6, input_size=4, dtype="float64"), lambda: torch.nn.GRUCell(4, 6)),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_step_of_a_cell_is_that_of_pytorch(name: str) -> None:
    torch.manual_seed(0)
    ours, peer = CELLS[name][0](), CELLS[name][1]().double()
    ours.initialize()
    for mine, theirs in (("i2h", "ih"), ("h2h", "hh")):
        getattr(ours, f"{mine}_weight").set_data(getattr(peer, f"weight_{theirs}").detach().numpy())
        getattr(ours, f"{mine}_bias").set_data(getattr(peer, f"bias_{theirs}").detach().numpy())
    x = inputs()[0]
    states = [np.random.default_rng(n).standard_normal((3, 6)) for n, _ in enumerate(ours.state_info())]
    out, new = ours(Tensor(x), [Tensor(s) for s in states])
    first = [torch.tensor(s) for s in states]
    expected = peer(torch.tensor(x), tuple(first) if len(first) == 2 else first[0])
    expected = expected if isinstance(expected, tuple) else (expected,)
    for a, b in zip([out, *new[1:]], expected, strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.detach().numpy(), atol=1e-12)


def projected() -> Any:
    return rnn.LSTMPCell(6, 3, input_size=4, dtype="float64")


@pytest.mark.parametrize("lengths", [None, [5, 2, 1]], ids=str)
@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (CELLS["rnn"][0], lambda **o: rnn.RNN(6, activation="tanh", **o)),
        (CELLS["lstm"][0], lambda **o: rnn.LSTM(6, **o)),
        (CELLS["gru"][0], lambda **o: rnn.GRU(6, **o)),
        (projected, lambda **o: rnn.LSTM(6, projection_size=3, **o)),
    ],
    ids=["rnn", "lstm", "gru", "projected"],
)
def test_an_unrolled_cell_is_a_layer(make: Any, layer: Any, lengths: Any) -> None:
    cell, whole = make(), layer(input_size=4, dtype="float64", use_sequence_length=lengths is not None)
    cell.initialize(1.5)
    cell.initialize("normal", force_reinit=True)
    whole.initialize()
    for name, param in cell.collect_params().items():
        getattr(whole, f"l0_{name}").set_data(param.data())
    y, last = cell.unroll(5, Tensor(inputs()), layout="TNC", valid_length=lengths)
    zeros = [Tensor(s.asnumpy()) for s in whole.begin_state(3, "float64")]
    expected, ends = whole(Tensor(inputs()), zeros, lengths) if lengths else whole(Tensor(inputs()), zeros)
    np.testing.assert_allclose(y.asnumpy(), expected.asnumpy(), atol=1e-12)
    for a, b in zip(last, ends, strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy()[0], atol=1e-12)


def ready(cell: Any) -> Any:
    cell.initialize("normal")
    return cell


def test_two_cells_in_both_directions_are_a_bidirectional_layer() -> None:
    stack = rnn.SequentialRNNCell()
    stack.add(
        rnn.BidirectionalCell(rnn.GRUCell(6), rnn.GRUCell(6)), rnn.BidirectionalCell(rnn.GRUCell(6), rnn.GRUCell(6))
    )
    ready(stack)
    x = inputs("NTC").astype("f")
    y, states = stack.unroll(5, Tensor(x), valid_length=[5, 3, 1])
    layer = rnn.GRU(6, 2, layout="NTC", bidirectional=True, input_size=4, use_sequence_length=True)
    layer.initialize()
    for n in range(2):
        for side, cell in (("l", stack[n].l_cell), ("r", stack[n].r_cell)):
            for name, param in cell.params.items():
                getattr(layer, f"{side}{n}_{name}").set_data(param.data())
    expected, last = layer(Tensor(x), layer.begin_state(3), [5, 3, 1])
    np.testing.assert_allclose(y.asnumpy(), expected.asnumpy(), atol=2e-6)
    for i, s in enumerate(states):
        np.testing.assert_allclose(s.asnumpy(), last[0].asnumpy()[i], atol=2e-6)


def test_a_bidirectional_cell_makes_no_single_step() -> None:
    cell = rnn.BidirectionalCell(rnn.RNNCell(2, input_size=2), rnn.RNNCell(2, input_size=2))
    with pytest.raises(ConfigError, match="unroll"):
        cell(Tensor(np.ones((1, 2), "f")), cell.begin_state(1))


def test_a_residual_cell_adds_its_input() -> None:
    base = ready(rnn.RNNCell(4, input_size=4))
    x = Tensor(inputs().astype("f"))
    plain, _ = base.unroll(5, x, layout="TNC")
    added, _ = rnn.ResidualCell(base).unroll(5, x, layout="TNC")
    np.testing.assert_allclose(added.asnumpy(), (plain + x).asnumpy(), atol=1e-6)


def test_zoneout_keeps_what_was_and_does_nothing_in_prediction() -> None:
    base = ready(rnn.RNNCell(50, input_size=4))
    cell = rnn.ZoneoutCell(base, zoneout_outputs=0.5, zoneout_states=0.5)
    x = Tensor(inputs().astype("f"))
    assert np.array_equal(cell.unroll(5, x, layout="TNC")[0].asnumpy(), base.unroll(5, x, layout="TNC")[0].asnumpy())
    with autograd.train_mode():
        y = cell.unroll(5, x, layout="TNC")[0].asnumpy()
    kept = (y[1:] == y[:-1]).mean()
    assert 0.4 < kept < 0.6 and 0.4 < (y[0] == 0).mean() < 0.6


def test_variational_dropout_has_one_mask_for_a_sequence() -> None:
    cell = rnn.VariationalDropoutCell(ready(rnn.RNNCell(50, input_size=4)), drop_outputs=0.5)
    x = Tensor(inputs().astype("f"))
    with autograd.train_mode():
        y = cell.unroll(5, x, layout="TNC")[0].asnumpy()
        z = cell.unroll(5, x, layout="TNC")[0].asnumpy()
    assert all(np.array_equal(step == 0, y[0] == 0) for step in y)
    assert not np.array_equal(y == 0, z == 0)


def test_dropout_between_cells_and_the_forms_of_outputs() -> None:
    cells = rnn.SequentialRNNCell().add(
        rnn.LSTMCell(6, input_size=4), rnn.DropoutCell(0.5), rnn.LSTMCell(5, input_size=6)
    )
    ready(cells)
    assert len(cells) == 3 and len(cells.begin_state(2)) == 4
    steps = [Tensor(x.astype("f")) for x in inputs()]
    with autograd.train_mode():
        outputs, _ = cells.unroll(5, steps)
    assert isinstance(outputs, list) and outputs[0].shape == (3, 5)
    merged, states = cells.unroll(5, steps, merge_outputs=True)
    assert merged.shape == (3, 5, 5) and len(states) == 4
    out, states = cells(steps[0], cells.begin_state(3))
    np.testing.assert_allclose(out.asnumpy(), merged.asnumpy()[:, 0], atol=1e-6)
    with pytest.raises(ShapeError, match="length=4, and the inputs have 5"):
        cells.unroll(4, steps)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rnn.ZoneoutCell(rnn.LSTMCell(6, input_size=4), 0.3, 0.3),
        lambda: rnn.VariationalDropoutCell(rnn.GRUCell(6, input_size=4), 0.3, 0.3, 0.3),
    ],
    ids=["zoneout", "variational"],
)
def test_unrolling_within_a_hybrid_block_gives_the_same_bits_and_draws_anew(make: Any) -> None:
    from shoal import nn

    class Net(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.cell = make()

        def forward(self, x: Any) -> Any:
            return self.cell.unroll(5, x, layout="TNC", valid_length=np.array([5, 3, 2]))[0]

    net, x = ready(Net()), Tensor(inputs().astype("f"))
    found = []
    for active in (False, True):
        net.hybridize(active)
        for step in (7, 8):
            random.set_address(step=step)
            with autograd.train_mode():
                found.append(net(x).asnumpy())
    assert not np.array_equal(found[0], found[1])
    for a, b in zip(found[:2], found[2:], strict=True):
        np.testing.assert_array_equal(a, b)


CONV = [(dims, kind) for dims in (1, 2, 3) for kind in ("RNN", "LSTM", "GRU")]


@pytest.mark.parametrize(("dims", "kind"), CONV, ids=str)
def test_a_cell_of_convolutions_with_kernels_of_one_is_an_ordinary_cell_at_each_place(dims: int, kind: str) -> None:
    cell = getattr(rnn, f"Conv{dims}D{kind}Cell")((4, *(3,) * dims), 5, 1, 1, dtype="float64")
    plain = getattr(rnn, f"{kind}Cell")(5, input_size=4, dtype="float64")
    ready(cell)
    ready(plain)
    for name, param in plain.params.items():
        param.set_data(cell.params[name].data().asnumpy().reshape(param.shape))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, *(3,) * dims))
    states = [rng.standard_normal(i["shape"]) for i in cell.state_info(2)]

    def rows(a: Any) -> Any:
        return np.moveaxis(a, 1, -1).reshape(-1, a.shape[1])

    out, new = cell(Tensor(x), [Tensor(s) for s in states])
    expected, after = plain(Tensor(rows(x)), [Tensor(rows(s)) for s in states])
    for a, b in zip([out, *new], [expected, *after], strict=True):
        np.testing.assert_allclose(rows(a.asnumpy()), b.asnumpy(), atol=1e-12)


def test_a_cell_of_convolutions_is_unrolled_and_hybridized() -> None:
    from shoal import nn

    class Net(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.cell = rnn.Conv2DLSTMCell((2, 7, 6), 3, (3, 2), (3, 5), i2h_pad=1, h2h_dilate=2)

        def forward(self, x: Any) -> Any:
            return self.cell.unroll(3, x)[0]

    net, x = ready(Net()), Tensor(np.random.default_rng(0).standard_normal((2, 3, 2, 7, 6)).astype("f"))
    assert net(x).shape == (2, 3, 3, 7, 7)
    found = []
    for active in (False, True, True):
        net.hybridize(active)
        with autograd.record():
            y = net(x)
            (y * y).sum().backward()
        found.append((y.asnumpy(), net.cell.h2h_weight.grad().asnumpy().copy()))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-5)


def test_misuse_of_a_cell_of_convolutions_is_named() -> None:
    with pytest.raises(ConfigError, match="odd kernels"):
        rnn.Conv1DRNNCell((2, 7), 3, 3, 2)
    with pytest.raises(ConfigError, match="does not fit"):
        rnn.Conv1DGRUCell((2, 3), 3, 5, 3)
    with pytest.raises(ConfigError, match="no activation is called 'nonsense'"):
        rnn.Conv1DLSTMCell((2, 3), 3, 3, 3, activation="nonsense")
