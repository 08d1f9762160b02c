"""Cases of recurrent layers and of what goes with sequences."""

from typing import Any

import numpy as np

from shoal.ops.registry import OPS
from tests.ops.cases.making import Case, case, whole

T, N, F, H, P = 3, 2, 4, 3, 2
X, STATE, OUT = (T, N, F), (N, H), (T, N, H)
SMALL = {"low": -1.0, "high": 1.0}


def lengths(rng: Any) -> Any:
    """One short sequence, one full."""
    return np.array([1, T])


def saved(name: str, count: int, at: list[int]) -> Any:
    """The outputs ``at`` of the layer are the first inputs of its gradient; its own ``count`` inputs follow."""

    def tied(inputs: list[Any], attrs: dict[str, Any]) -> dict[int, Any]:
        out = OPS[name](*inputs[len(at) : len(at) + count], **attrs)
        return {i: np.asarray(out[n]) for i, n in enumerate(at)}

    return tied


def recurrent(gates: int, states: int = 1) -> tuple[Any, ...]:
    """Shapes of x, the states, the weights and the biases."""
    return (X, *[STATE] * states, (gates * H, F), (gates * H, H), (gates * H,), (gates * H,))


RNN, LSTM, GRU = recurrent(1), recurrent(4, 2), recurrent(3)
PROJECTED = (X, (N, P), STATE, (4 * H, F), (4 * H, P), (4 * H,), None, (P, H))
_RNN = saved("rnn_sequence", 7, [0])
_LSTM = saved("lstm_sequence", 9, [0, 3, 4])
_GRU = saved("gru_sequence", 7, [0, 2])
HG = (T, N, 4 * H)


def _empty(shapes: tuple[Any, ...], time: int, batch: int) -> tuple[Any, ...]:
    states = len(shapes) - 5
    return ((time, batch, F), *[(batch, H)] * states, *shapes[1 + states :])


CTC = ((6, 2, 4), lambda rng: np.array([[1, 1], [2, 0]]), lambda rng: np.array([6, 5]), lambda rng: np.array([2, 1]))

CSR = (lambda rng: np.array([1, 4, 0, 4]), lambda rng: np.array([0, 2, 2, 4]))

CASES: dict[str, list[Case]] = {
    "rnn_sequence": [
        case(*RNN, empty=_empty(RNN, 0, 2), **SMALL),
        case(*RNN, lengths, empty=_empty(RNN, 3, 0)[:0], **SMALL),
        case(*RNN[:4], None, None, lengths, reverse=True, **SMALL),
        case(*RNN[:5], activation="relu", reverse=True, empty=_empty(RNN, 3, 0)[:5], **SMALL),
    ],
    "rnn_sequence_grad": [
        case(OUT, *RNN, None, OUT, STATE, tied=_RNN, **SMALL),
        case(OUT, *RNN[:4], None, None, lengths, OUT, tied=_RNN, reverse=True, **SMALL),
    ],
    "lstm_sequence": [
        case(*LSTM, empty=_empty(LSTM, 0, 2), **SMALL),
        case(*LSTM, None, lengths, **SMALL),
        case(*LSTM[:5], reverse=True, empty=_empty(LSTM, 3, 0)[:5], **SMALL),
        case(*PROJECTED, lengths, reverse=True, **SMALL),
    ],
    "lstm_sequence_grad": [
        case(OUT, HG, OUT, *LSTM, None, None, OUT, STATE, STATE, tied=_LSTM, **SMALL),
        case((T, N, P), HG, OUT, *PROJECTED, lengths, (T, N, P), tied=_LSTM, reverse=True, **SMALL),
        case(OUT, HG, OUT, *LSTM[:5], None, None, None, lengths, None, None, STATE, HG, OUT, tied=_LSTM, **SMALL),
    ],
    "gru_sequence": [
        case(*GRU, empty=_empty(GRU, 0, 2), **SMALL),
        case(*GRU, lengths, **SMALL),
        case(*GRU[:4], None, None, lengths, reverse=True, **SMALL),
        case(*GRU[:4], None, GRU[5], reverse=True, **SMALL),
    ],
    "gru_sequence_grad": [
        case(OUT, HG, *GRU, None, OUT, STATE, tied=_GRU, **SMALL),
        case(OUT, HG, *GRU[:4], None, None, lengths, OUT, None, HG, tied=_GRU, reverse=True, **SMALL),
    ],
    "ctc": [case(*CTC, empty=((0, 2, 4),), low=-3.0, high=0.0), case(*CTC, blank=3, low=-3.0, high=0.0)],
    "ctc_grad": [case(*CTC, low=-3.0, high=0.0), case(*CTC, blank=3, zero_infinity=True, low=-3.0, high=0.0)],
    # sparse
    "sparse_take": [case((5, 3), whole((2, 4), 5)), case((4,), whole((3,), 4), empty=((4,),))],
    "csr_matmul": [
        case((4,), *CSR, (5, 2), shape=(3, 5)),
        case((4,), *CSR, (5,), shape=(3, 5)),
        case((4,), *CSR, (3, 2), shape=(3, 5), transpose=True),
    ],
    "csr_sampled": [case((3, 2), (5, 2), *CSR), case((3,), (5,), *CSR)],
}
