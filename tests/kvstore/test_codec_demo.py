"""DeMo: the anchor of its paper, the transform, and what the update rule must be."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import StoreError
from shoal.kvstore.codecs import CodecState, DeMo, parse
from shoal.kvstore.codecs.frequency import Tiles, dct, strongest
from shoal.ops import optim
from tests.kvstore.codec_cases import AT, decoded, normal, sent


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_the_transform_is_orthonormal_and_that_of_the_definition(n: int) -> None:
    np.testing.assert_allclose(dct(n) @ dct(n).T, np.eye(n), atol=1e-13)
    x = normal(n, "<f8")
    scale = [(1 if k == 0 else 2) / n for k in range(n)]
    want = [sum(x[i] * np.cos(np.pi * (i + 0.5) * k / n) for i in range(n)) * scale[k] ** 0.5 for k in range(n)]
    np.testing.assert_allclose(dct(n) @ x, want, atol=1e-13)


@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (65,), (5000,), (3, 5), (64, 64), (70, 130), (10, 784)])
def test_tiles_go_there_and_back_and_keep_the_norm(shape: tuple[int, ...]) -> None:
    x = normal(int(np.prod(shape)), "<f8")
    tiles = Tiles.of(x.size, shape[1] if len(shape) == 2 else 0, 64)
    found = tiles.transform(x)
    np.testing.assert_allclose(tiles.back(found), x, atol=1e-12)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(x))


def test_a_tile_of_one_frequency_is_one_number() -> None:
    wave = np.outer(dct(64)[3], dct(64)[10]).astype(np.float32)
    found = np.sort(np.abs(Tiles.of(4096, 64, 64).transform(wave)[0]))
    assert found[-1] == pytest.approx(1, abs=1e-6) and found[-2] < 1e-6


def store(codec: str, rate: float = 0.125) -> Any:
    kv = shoal.kv.create("local", reduce="sum")
    kv.set_optimizer(optim.create("signum", learning_rate=rate, momentum=0.0))
    kv.set_gradient_compression(codec)
    return kv


@pytest.mark.parametrize("shape", [(100,), (64, 64), (20, 30), (5000,)])
def test_with_every_frequency_and_one_worker_it_is_sign_sgd_and_keeps_nothing(shape: tuple[int, ...]) -> None:
    kv, w = store("demo:top=4096"), np.zeros(shape, np.float32)
    kv.init("w", w)
    for step in range(4):
        g = normal(w.size, seed=step).reshape(shape)
        kv.push("w", g)
        w -= np.float32(0.125) * np.sign(g)
        np.testing.assert_array_equal(kv.pull("w"), w)
        (state,) = kv._compressor._states.values()
        assert np.abs(state.arrays["residual"]).max() < 1e-5


def test_with_every_frequency_sent_as_frequencies_nothing_is_kept_either() -> None:
    codec, state = DeMo(top=64, chunk=8), CodecState()
    parts = codec._strongest(Tiles.of(640, 0, 8), normal(640), 0, AT)  # 6 bytes a value: alone it would not do that
    assert parts[0].size == 640
    got = decoded(codec, parts, normal(640))
    np.testing.assert_allclose(got, normal(640), atol=1e-5)
    assert state.arrays == {}


def test_it_is_the_recursion_of_the_paper() -> None:
    codec, state, d = DeMo(decay=0.5, chunk=8, top=4), CodecState(), np.zeros((16, 24))
    for step in range(5):
        g = normal(16 * 24, "<f8", step).reshape(16, 24)
        d = 0.5 * d + g
        q = np.zeros_like(d)
        for r in range(0, 16, 8):
            for c in range(0, 24, 8):
                f = dct(8) @ d[r : r + 8, c : c + 8] @ dct(8).T
                f[np.abs(f) < np.sort(np.abs(f).reshape(-1))[-4]] = 0
                q[r : r + 8, c : c + 8] = dct(8).T @ f @ dct(8)
        parts = codec.encode(g, state, AT)
        got = decoded(codec, parts, g.reshape(-1))
        np.testing.assert_allclose(got, q.reshape(-1), atol=1e-12)
        d = d - q
        np.testing.assert_allclose(state.arrays["residual"], d.reshape(-1), atol=1e-12)


def test_workers_are_summed_before_the_sign_is_taken() -> None:
    codec, grads = DeMo(chunk=8, top=6), [normal(256, seed=s) * (s + 1) for s in (0, 1, 2)]
    q = [sent(codec, g) for g in grads]
    rule, w = optim.create("signum", learning_rate=1.0, momentum=0.0), np.zeros(256, np.float32)
    rule.step(w, sum(q) / 3, rule.init(w), 1)
    np.testing.assert_array_equal(w, -np.sign(sum(q)))


def test_a_rejected_push_returns_to_the_momentum() -> None:
    codec, state, grad = DeMo(chunk=8, top=3, decay=1.0), CodecState(), normal(300)
    parts = codec.encode(grad, state, AT)
    codec.give_back(parts, state)
    np.testing.assert_allclose(state.arrays["residual"], grad, atol=1e-6)


def test_defaults_send_one_eighty_fifth() -> None:
    parts = parse("demo").encode(normal(512 * 512).reshape(512, 512), CodecState(), AT)
    assert 512 * 512 * 4 / sum(p.nbytes for p in parts) == pytest.approx(85.3, abs=0.1)


def test_of_equal_frequencies_the_first_are_sent() -> None:
    assert strongest(np.array([[1.0, 2, 1, 1], [0, 0, 0, 0], [3, 1, 2, 0]]), 2).tolist() == [[0, 1], [0, 1], [0, 2]]


def test_sums_that_overflow_are_refused_and_the_state_is_kept() -> None:
    codec, state = parse("demo"), CodecState()
    codec.encode(normal(4096), state, AT)
    before = state.copy()
    with pytest.raises(StoreError, match=r"demo: worker 1, .* up to 3e\+38 overflow float32"):
        codec.encode(np.full(4096, 3e38, np.float32), state, AT)
    assert (state.arrays["residual"] == before.arrays["residual"]).all() and state.counters == before.counters


def test_any_update_but_by_the_sign_is_refused_with_the_reason() -> None:
    assert parse("demo").objection("signum", {"momentum": 0.0, "wd": 0.0, "wd_lh": 0.1}) == ""
    assert "got 'sgd'" in parse("demo").objection("sgd", {"momentum": 0.0})
    assert "momentum=0.9" in parse("demo").objection("signum", {"momentum": 0.9})
    assert "applied twice" in parse("dgc").objection("sgd", {"momentum": 0.9})
    assert parse("dgc:momentum=0").objection("sgd", {"momentum": 0.9}) == ""
    assert parse("topk").objection("adam", {}) == ""
