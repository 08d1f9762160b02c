"""Codecs: the numbers of their papers, and what holds for all of them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal.errors import DTypeError, LocalProtocolError, ShapeError, StoreError
from shoal.kvstore.codecs import (
    DGC,
    QSGD,
    Address,
    CodecState,
    OneBitMean,
    PowerSGD,
    TopK,
    TwoBit,
    names,
    parse,
    vote,
)
from shoal.kvstore.codecs.positions import largest
from shoal.kvstore.wire.schema import ITEM_BYTES
from tests.kvstore.codec_cases import ADDS_UP, AT, FEEDBACK, STOCHASTIC, VARIANTS, decoded, normal, sent

ADDRESSES = [AT._replace(clock=i) for i in range(600)]


# The numbers of the papers.


def test_2bit_is_mxnets_to_the_bit() -> None:
    codec, state = TwoBit(threshold=4.0), CodecState()
    residual = np.array([-3, 1, -1, 5, -2, 2, 3, -7, -2, -100], np.float32)
    state.arrays["residual"] = residual
    grad = np.array([-6, -2, 3, 1, 10, 5, -3, 2, -8, 0], np.float32)
    parts = codec.encode(grad, state, AT)
    assert decoded(codec, parts, grad).tolist() == [-4, 0, 0, 4, 4, 4, 0, -4, -4, -4]
    assert residual.tolist() == [-5, -1, 2, 2, 4, 3, 0, -1, -6, -96]
    bits = "10 00 00 11  11 11 00 10  10 10 00 00  00 00 00 00".replace(" ", "")
    assert parts[0].tobytes() == int(bits, 2).to_bytes(4, "big")


def _mxnet(grad: Any, residual: Any, one: bool, threshold: float) -> tuple[bytes, Any]:
    """MXNet's loop over bytes, one value at a time, in float32."""
    per = 8 if one else 4
    packed = bytearray(-(-grad.size // (4 * per)) * 4)
    t, residual = np.float32(threshold), residual.copy()
    for i, g in enumerate(grad):
        residual[i] += g
        if one:
            up = residual[i] > t
            packed[i // 8] |= up << (7 - i % 8)
            residual[i] -= np.float32(1 if up else -1)
        elif residual[i] >= t:
            packed[i // 4] |= 3 << (6 - 2 * (i % 4))
            residual[i] -= t
        elif residual[i] <= -t:
            packed[i // 4] |= 2 << (6 - 2 * (i % 4))
            residual[i] -= -t
    return bytes(packed), residual


@pytest.mark.parametrize("name", ["1bit", "2bit"])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, 1000])
def test_codes_and_residuals_are_those_of_mxnets_loop(name: str, n: int) -> None:
    codec, state, residual = parse({"type": name, "threshold": 0.3}), CodecState(), np.zeros(n, np.float32)
    for step in range(3):
        grad = normal(n, seed=step)
        packed, residual = _mxnet(grad, residual, name == "1bit", 0.3)
        assert codec.encode(grad, state, AT)[0].tobytes() == packed
        assert state.arrays["residual"].tobytes() == residual.tobytes()


def test_onebit_sends_seides_column_means() -> None:
    state, column = CodecState(), np.array([1, 2, -1, -4], np.float32)
    assert sent(OneBitMean(), column, state).tolist() == [1.5, 1.5, -2.5, -2.5]
    assert state.arrays["residual"].tolist() == [-0.5, 0.5, 1.5, -1.5]


def test_signs_are_voted_on() -> None:
    rows = np.array([[1, -2, 3], [-1, -1, 2], [5, -1, -1]], np.float32)
    out = np.empty(3, np.float32)
    vote([parse("sign").encode(r, CodecState(), AT) for r in rows], out)
    assert out.tolist() == [1, -1, 1]


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_topk_sends_in_four_steps_what_feedback_says(dtype: str) -> None:
    codec, state, total = TopK(ratio=0.3), CodecState(), np.zeros(3, dtype)
    for _ in range(4):
        total += sent(codec, np.array([0.3, 0.2, 0.1], dtype), state)
    assert total == pytest.approx([0.9, 0.8, 0])
    assert state.arrays["residual"] == pytest.approx([0.3, 0, 0.4])


def test_dgc_accumulates_a_velocity_while_nothing_is_sent() -> None:
    codec, state = DGC(ratio=0.5, momentum=0.9, warmup=0), CodecState()
    for _ in range(3):
        assert sent(codec, np.array([100, 1], np.float64), state)[1] == 0
    assert state.arrays["residual"][1] == pytest.approx(5.61)
    assert state.arrays["velocity"].tolist()[0] == 0


def test_dgc_warms_up_by_the_clock() -> None:
    codec = DGC(warmup=10)
    sparsity = [100 * (1 - codec.density(clock)) for clock in (0, 10, 20, 30, 40, 10**9)]
    assert sparsity == pytest.approx([75, 93.75, 98.44, 99.6, 99.9, 99.9], abs=0.01)
    grad = normal(4096)
    counts = [codec.encode(grad, CodecState(), AT._replace(clock=c))[0].size for c in (9, 19, 29, 39, 40)]
    assert counts == [1024, 256, 64, 16, 4]


def test_dgc_makes_resnet_50_as_small_as_the_paper_says() -> None:
    parameters = 25_557_032
    assert DGC().encoded_bytes(parameters) < 0.35e6 < 4 * parameters / 270


def test_qsgd_has_the_mean_and_the_variance_of_the_paper() -> None:
    codec, v = QSGD(levels=1), np.array([3, 4], np.float64)
    draws = np.array([sent(codec, v, at=a) for a in (AT._replace(clock=i) for i in range(2000))])
    assert draws.mean(axis=0) == pytest.approx(v, abs=0.2)
    assert (draws**2).sum(axis=1).mean() == pytest.approx(35, abs=0.9)
    variance = ((draws - v) ** 2).sum(axis=1).mean()
    assert variance == pytest.approx(10, abs=0.5)
    assert variance <= min(2 / 1, 2**0.5) * 25
    assert set(np.unique(draws)) == {0.0, 5.0}


def test_powersgd_recovers_a_matrix_of_rank_one() -> None:
    matrix = np.outer(normal(30, "<f8"), normal(50, "<f8", 1))
    out = np.empty(1500)
    codec, state = PowerSGD(rank=1), CodecState()
    codec.decode(codec.encode(matrix, state, AT), out)
    assert np.abs(out - matrix.reshape(-1)).max() < 1e-14 * np.abs(matrix).max() * 10
    assert np.abs(state.arrays["residual"]).max() < 1e-14 * np.abs(matrix).max() * 10


def test_powersgd_has_the_ratio_of_the_paper() -> None:
    matrix = normal(512 * 4608).reshape(512, 4608)
    parts = PowerSGD(rank=2).encode(matrix, CodecState(), AT)
    assert matrix.nbytes / sum(p.nbytes for p in parts) == 230.4
    assert PowerSGD(rank=2).matrix_bytes(512, 4608) == sum(p.nbytes for p in parts)


def test_powersgd_comes_closer_with_each_warm_start() -> None:
    codec, state = PowerSGD(rank=2), CodecState()
    matrix = normal(40 * 60, "<f8").reshape(40, 60)
    u, s, v = np.linalg.svd(matrix)
    best = np.linalg.norm(matrix - (u[:, :2] * s[:2]) @ v[:2])
    errors = []
    for clock in range(30):
        state.arrays.pop("residual", None)  # the iteration alone, without feedback
        out = np.empty(matrix.size)
        codec.decode(codec.encode(matrix, state, AT._replace(clock=clock)), out)
        errors.append(np.linalg.norm(matrix.reshape(-1) - out))
    assert errors[-1] < errors[0] and errors[-1] == pytest.approx(best, rel=0.02)


def test_a_gradient_costs_what_the_table_says() -> None:
    n = 1 << 18
    ratios = {s: n * 4 / parse(s).encoded_bytes(n) for s in ("fp16", "bf16", "2bit", "1bit", "sign", "int8")}
    assert ratios == pytest.approx({"fp16": 2, "bf16": 2, "2bit": 16, "1bit": 32, "sign": 32, "int8": 3.98}, abs=0.01)


# Half precision.


def test_bf16_is_torchs_for_every_kind_of_number() -> None:
    bits = np.concatenate(
        [np.random.default_rng(0).integers(0, 1 << 32, 70_000, np.uint32), np.arange(0, 1 << 16) << 16]
    )
    edges = [0x7F7FFFFF, 0x7F7F8000, 0x7F7F7FFF, 1, 0x8000, 0x18000, 0x80000000, 0x7F800000, 0xFF800000]
    values = np.concatenate([bits, edges]).astype(np.uint32).view(np.float32)
    want = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    got = sent(parse("bf16"), values)
    nan = np.isnan(values)
    assert (np.isnan(got) == nan).all()
    assert got[~nan].tobytes() == want[~nan].tobytes()


def test_fp16_is_numpys_and_passes_what_is_not_finite() -> None:
    values = np.concatenate([normal(1000), [np.inf, -np.inf, np.nan, 1e-8, 65504, 6e-8]]).astype(np.float32)
    assert sent(parse("fp16"), values).tobytes() == values.astype(np.float16).astype(np.float32).tobytes()


def test_fp16_refuses_what_would_become_infinite_and_says_where() -> None:
    values = np.zeros(70_000, np.float32)
    values[[5, 66_000]] = np.inf, 1e5
    with pytest.raises(StoreError, match=r"worker 1, slice 3, clock 0: .* 100000.0 at position 66000.*or use bf16"):
        parse("fp16").encode(values, CodecState(), AT)


def test_none_copies_nothing() -> None:
    grad = normal(10)
    assert parse("none").encode(grad, CodecState(), AT)[0] is grad


# What holds for all.


@pytest.mark.parametrize("spec", VARIANTS)
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("n", [0, 1, 31, 1024, 70_001])
def test_every_size_and_dtype_goes_there_and_back(spec: str, dtype: str, n: int) -> None:
    codec, grad, state = parse(spec), normal(n, dtype), CodecState()
    before = grad.tobytes()
    parts = codec.encode(grad, state, AT)
    assert grad.tobytes() == before
    assert all(p.dtype.str in ITEM_BYTES and p.flags.c_contiguous for p in parts)
    assert not any(np.may_share_memory(p, a) for p in parts for a in state.arrays.values())
    got = decoded(codec, parts, grad)
    assert np.isfinite(got).all() and got.dtype == grad.dtype
    assert state.dtype == dtype and state.counters == {"encoded": 1, "returned": 0}
    if codec.name not in ("dgc", "powersgd", "topk"):  # these depend on the values, the clock or the shape
        assert sum(p.nbytes for p in parts) == codec.encoded_bytes(n, grad.itemsize)


@pytest.mark.parametrize("spec", VARIANTS)
def test_the_same_address_gives_the_same_bits(spec: str) -> None:
    codec, grad = parse(spec), normal(3000)
    first, second = (b"".join(p.tobytes() for p in codec.encode(grad, CodecState(), AT)) for _ in range(2))
    assert first == second
    others = [AT._replace(**{k: getattr(AT, k) + 1}) for k in ("seed", "worker", "slice", "clock")]
    changed = [b"".join(p.tobytes() for p in codec.encode(grad, CodecState(), a)) != first for a in others]
    if spec in STOCHASTIC:
        assert changed == [True, "shared" not in spec, True, True]
    elif codec.name != "dgc":
        assert not any(changed)


@pytest.mark.parametrize("spec", VARIANTS)
def test_parts_that_are_read_only_and_unaligned_are_decoded(spec: str) -> None:
    codec, grad = parse(spec), normal(3000)
    parts = codec.encode(grad, CodecState(), AT)
    received = [np.frombuffer(b"x" + p.tobytes(), p.dtype, offset=1) for p in parts]
    assert decoded(codec, received, grad).tobytes() == decoded(codec, parts, grad).tobytes()


@pytest.mark.parametrize("spec", VARIANTS)
def test_zeros_stay_zeros_on_average(spec: str) -> None:
    codec, grad = parse(spec), np.zeros(64, np.float32)
    state, total = CodecState(), np.zeros(64)
    for clock in range(4):
        total += sent(codec, grad, state, AT._replace(clock=clock))
    assert not total.any()


@pytest.mark.parametrize("spec", VARIANTS)
def test_subnormal_numbers_are_no_trouble(spec: str) -> None:
    codec, state = parse(spec), CodecState()
    grad = normal(2000) * np.float32(1e-41)
    got = sent(codec, grad, state)
    assert np.isfinite(got).all()
    if spec in ADDS_UP and codec.name != "1bit":
        assert got + state.arrays["residual"] == pytest.approx(grad, abs=1e-43)


@pytest.mark.parametrize("spec", VARIANTS)
def test_the_largest_numbers_are_no_trouble(spec: str) -> None:
    if spec == "fp16" or spec.startswith("demo"):  # these refuse them
        return
    codec, state = parse(spec), CodecState()
    grad = np.clip(normal(2000), -1, 1) * np.float32(3e38)
    parts = codec.encode(grad, state, AT)
    if not spec.startswith("randomk"):  # scaled up, it may well overflow
        assert np.isfinite(decoded(codec, parts, grad)).all()
    assert all(np.isfinite(a).all() for a in state.arrays.values())


@pytest.mark.parametrize("spec", [s for s in VARIANTS if s not in ("none", "fp16", "bf16")])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_changes_nothing(spec: str, bad: float) -> None:
    codec, state = parse(spec), CodecState()
    codec.encode(normal(100), state, AT)
    before = state.copy()
    grad = normal(100)
    grad[[17, 60]] = bad
    with pytest.raises(
        StoreError, match=rf"{codec.name}: worker 1, slice 3, clock 0: .* {bad} at position 17 \(2 of 100"
    ):
        codec.encode(grad, state, AT)
    assert state.counters == before.counters
    assert all((state.arrays[k] == v).all() for k, v in before.arrays.items())


@pytest.mark.parametrize("spec", FEEDBACK)
def test_a_residual_that_would_overflow_is_refused(spec: str) -> None:
    codec, state, grad = parse(spec), CodecState(), np.full(64, 3e38, np.float32)
    codec.encode(np.zeros(64, np.float32), state, AT)
    state.arrays["residual"][:] = 3e38
    with pytest.raises(StoreError, match="overflow"):
        codec.encode(grad, state, AT)
    assert (state.arrays["residual"] == np.float32(3e38)).all()


@pytest.mark.parametrize("spec", VARIANTS)
def test_gradients_that_do_not_fit_are_refused(spec: str) -> None:
    codec, state = parse(spec), CodecState()
    with pytest.raises(DTypeError, match="int32"):
        codec.encode(np.zeros(4, np.int32), state, AT)
    with pytest.raises(ShapeError, match="flat slice"):
        codec.encode(np.zeros((2, 2, 2), np.float32), state, AT)
    codec.encode(normal(8), state, AT)
    with pytest.raises(DTypeError, match="<f4, got float64"):
        codec.encode(normal(8, "<f8"), state, AT)
    if codec.has_feedback:
        with pytest.raises(ShapeError, match="slice of 8 values, got 9"):
            codec.encode(normal(9), state, AT)


@pytest.mark.parametrize("spec", ["none", "fp16", "bf16", "2bit", "1bit", "onebit", "efsign", "sign"])
def test_slicing_at_blocks_does_not_change_what_is_decoded(spec: str) -> None:
    codec, grad = parse(spec), normal(150_000)
    whole, halves = sent(codec, grad), [sent(codec, g) for g in (grad[:102_400], grad[102_400:])]
    assert np.concatenate(halves).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", names())
def test_every_codec_says_where_it_is_from(name: str) -> None:
    cls = type(parse(name))
    assert cls.__doc__ and "Source:" in cls.__doc__
    assert all(f"{f.name}:" in cls.__doc__ for f in dataclasses.fields(cls)), "every parameter is described"


# Error feedback.

values = st.floats(-4, 4, width=16)


@given(
    spec=st.sampled_from(ADDS_UP),
    dtype=st.sampled_from(["<f2", "<f4", "<f8"]),
    grads=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(0, 70)), elements=values),
    rejected=st.lists(st.booleans(), min_size=6, max_size=6),
)
@settings(max_examples=300)
def test_what_was_sent_and_what_is_kept_add_up_to_the_gradients(
    spec: str, dtype: str, grads: Any, rejected: list[bool]
) -> None:
    codec, state = parse(spec), CodecState()
    total = np.zeros(grads.shape[1])
    for clock, (row, no) in enumerate(zip(grads, rejected, strict=False)):
        grad = row.astype(dtype)
        parts = codec.encode(grad, state, AT._replace(clock=clock))
        if no:
            codec.give_back(parts, state)
        else:
            total += decoded(codec, parts, grad)
    tolerance = 1e-12 if dtype == "<f8" else 2e-5
    assert np.abs(total + state.arrays["residual"] - grads.sum(axis=0)).max(initial=0) <= tolerance
    assert state.counters == {"encoded": len(grads), "returned": sum(rejected[: len(grads)])}


@given(
    grads=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=values),
    rejected=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_dgc_is_its_recursion(grads: Any, rejected: list[bool]) -> None:
    codec, state = DGC(ratio=0.2, momentum=0.5, warmup=0), CodecState()
    u, v = np.zeros(grads.shape[1]), np.zeros(grads.shape[1])
    for grad, no in zip(grads, rejected, strict=False):
        parts = codec.encode(grad, state, AT)
        got = decoded(codec, parts, grad)
        u = 0.5 * u + grad
        v = v + u
        mask = got != 0
        assert (got[mask] == v[mask]).all() and mask.sum() <= max(1, round(0.2 * grad.size))
        u[mask] = 0
        v = v - got
        if no:
            codec.give_back(parts, state)
            v = v + got
        assert (state.arrays["velocity"] == u).all() and (state.arrays["residual"] == v).all()


@pytest.mark.parametrize("shape", [(24, 32), (3, 4)])
def test_powersgd_adds_up_too(shape: tuple[int, int]) -> None:
    codec, state = PowerSGD(rank=2), CodecState()
    total, want = np.zeros(shape).reshape(-1), np.zeros(shape)
    for clock in range(6):
        grad = normal(shape[0] * shape[1], "<f8", clock).reshape(shape)
        want += grad
        parts = codec.encode(grad, state, AT._replace(clock=clock))
        if clock == 3:
            codec.give_back(parts, state)
        else:
            total += decoded(codec, parts, grad.reshape(-1))
    assert total + state.arrays["residual"] == pytest.approx(want.reshape(-1), abs=1e-12)


def test_powersgd_refuses_sums_that_overflow_and_keeps_its_state() -> None:
    codec, state, grad = PowerSGD(rank=2), CodecState(), np.full((24, 32), 3e38, np.float32)
    codec.encode(normal(768).reshape(24, 32), state, AT)
    before = state.copy()
    with pytest.raises(StoreError, match=r"powersgd: worker 1, .* up to 3e\+38 overflow float32"):
        codec.encode(grad, state, AT)
    assert all((state.arrays[k] == v).all() for k, v in before.arrays.items())


@pytest.mark.parametrize("spec", FEEDBACK)
def test_halves_lose_nothing_beyond_their_range(spec: str) -> None:
    codec, state, grad = parse(spec), CodecState(), np.full(32, 60_000, np.float16)
    total = np.zeros(32)
    for clock in range(3):
        got = sent(codec, grad, state, AT._replace(clock=clock))
        assert np.isfinite(got).all()
        total += got
    assert np.isfinite(state.arrays["residual"]).all()
    if spec in ADDS_UP:
        assert total + state.arrays["residual"] == pytest.approx(np.full(32, 180_000.0), rel=1e-6)


@pytest.mark.parametrize("spec", FEEDBACK)
def test_nothing_can_be_given_back_before_something_was_sent(spec: str) -> None:
    parts = parse(spec).encode(normal(8), CodecState(), AT)
    with pytest.raises(LocalProtocolError, match="nothing was encoded"):
        parse(spec).give_back(parts, CodecState())


def test_without_feedback_a_rejected_push_is_only_counted() -> None:
    state = CodecState()
    parts = parse("int8").encode(normal(8), state, AT)
    parse("int8").give_back(parts, state)
    assert state == CodecState("<f4", {}, {"encoded": 1, "returned": 1})


@pytest.mark.parametrize("spec", FEEDBACK)
def test_a_copied_state_goes_on_by_itself(spec: str) -> None:
    codec, state = parse(spec), CodecState()
    codec.encode(normal(100), state, AT)
    other = state.copy()
    assert other.nbytes == state.nbytes >= 400
    got = [sent(codec, normal(100, seed=1), s).tobytes() for s in (state, other)]
    assert got[0] == got[1]


# Stochastic codecs.


@pytest.mark.parametrize("spec", [s for s in STOCHASTIC if parse(s).unbiased])
def test_the_mean_over_addresses_is_the_gradient(spec: str) -> None:
    codec, grad = parse(spec), normal(40, "<f8")
    draws = np.array([sent(codec, grad, at=a) for a in ADDRESSES])
    error = draws.std(axis=0) / len(ADDRESSES) ** 0.5
    assert (np.abs(draws.mean(axis=0) - grad) <= 4.5 * error + 1e-4).all()


def test_the_draws_of_workers_are_independent() -> None:
    codec, grad = parse("qsgd:levels=1"), np.full(4096, 0.01, np.float32)
    a, b = (sent(codec, grad, at=AT._replace(worker=w)) != 0 for w in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


@pytest.mark.parametrize("n", [1, 7, 64, 1000])
def test_randomk_chooses_every_position_as_often(n: int) -> None:
    codec = parse("randomk:ratio=0.15,feedback=true")
    hits = np.zeros(n)
    for a in ADDRESSES:
        hits += sent(codec, np.ones(n, np.float32), at=a)
    k = hits.sum() / len(ADDRESSES)
    assert k == max(1, round(0.15 * n))
    assert hits.min() > 0.5 * k / n * len(ADDRESSES) and hits.max() < 1.9 * k / n * len(ADDRESSES)


def test_shared_randomk_may_be_added_before_it_is_decoded() -> None:
    codec, grads = parse("randomk:ratio=0.25,shared=true"), [normal(200, seed=s) for s in (0, 1)]
    assert codec.linear and not parse("randomk").linear
    parts = [codec.encode(g, CodecState(), AT._replace(worker=w)) for w, g in enumerate(grads)]
    added = decoded(codec, [parts[0][0] + parts[1][0], parts[0][1]], grads[0])
    assert added.tobytes() == (decoded(codec, parts[0], grads[0]) + decoded(codec, parts[1], grads[0])).tobytes()


# Choosing the largest.


@given(data=st.data(), n=st.integers(0, 300), k=st.integers(0, 300))
def test_the_largest_are_found_and_of_equals_the_first(data: st.DataObject, n: int, k: int) -> None:
    x = data.draw(hnp.arrays(np.float32, n, elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0])))
    order = sorted((i for i in range(n) if x[i]), key=lambda i: (-abs(x[i]), i))
    assert largest(x, k).tolist() == sorted(order[:k])


@pytest.mark.parametrize("kind", ["normal", "ties", "sparse", "spikes where the sample looks", "sorted"])
@pytest.mark.parametrize("k", [1, 60, 3000])
def test_the_guess_from_a_sample_does_not_change_the_answer(kind: str, k: int) -> None:
    x = normal(60_000)
    if kind == "ties":
        x = np.round(x)
    elif kind == "sparse":
        x[np.arange(60_000) % 50 != 3] = 0
    elif kind == "spikes where the sample looks":
        x[:: (60_000 // 4096) | 1] *= 1000
    elif kind == "sorted":
        x.sort()
    order = np.lexsort((np.arange(x.size), -np.abs(x)))[:k]
    assert largest(x, k).tolist() == sorted(int(i) for i in order if x[i])


# Votes.


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_vote_is_the_sign_of_the_sum_of_signs(workers: int) -> None:
    codec, grads = parse("sign"), [normal(70_003, seed=s) for s in range(workers)]
    parts = [codec.encode(g, CodecState(), Address(0, w, 0, 0)) for w, g in enumerate(grads)]
    out = np.empty(70_003, np.float32)
    vote(parts, out)
    assert (out == np.sign(sum(np.sign(g) for g in grads))).all()


def test_nobody_voting_is_an_error() -> None:
    with pytest.raises(ShapeError, match="1 to 32767 pushes, got 0"):
        vote([], np.empty(3, np.float32))
