"""Codecs by name, codecs of one's own, and parts that are nonsense."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, RemoteProtocolError
from shoal.kvstore.codecs import (
    Blockwise,
    Codec,
    CodecState,
    Part,
    Place,
    TwoBit,
    names,
    parse,
    register,
    registry,
    vote,
)
from shoal.ops.optim.hyper import positive, real
from tests.kvstore.codec_cases import AT, VARIANTS, normal, sent


@pytest.mark.parametrize("spec", VARIANTS)
def test_a_spec_is_read_back(spec: str) -> None:
    codec = parse(spec)
    assert parse(codec.spec()) == codec and parse(codec.spec()).spec() == codec.spec()
    assert parse({"type": codec.name, **codec.hyper_parameters()}) == codec
    assert parse(codec) is codec


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("2bit", "2bit:threshold=0.5"),
        (" 2BIT : threshold = 1 ", "2bit:threshold=1.0"),
        ({"type": "2bit", "threshold": 0.5}, "2bit:threshold=0.5"),
        ({"type": "1bit"}, "1bit:threshold=0.5"),
        ("topk:ratio=1e-2", "topk:ratio=0.01"),
        ("fp16", "fp16"),
        ("int8:feedback=True", "int8:block=1024,feedback=true"),
        ("qsgd:bucket=64,levels=3", "qsgd:levels=3,bucket=64"),
    ],
)
def test_specs_have_one_spelling(spec: Any, canonical: str) -> None:
    assert parse(spec).spec() == canonical


OWN = [name for name in names() if type(parse(name)).__module__.startswith("shoal.")]  # other tests register theirs


@pytest.mark.parametrize("name", OWN)
def test_the_documentation_has_every_codec_with_its_defaults(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "codecs.md"
    assert f"| `{parse(name).spec()}` |" in page.read_text()


@given(st.floats(1e-30, 1e30))
def test_numbers_in_a_spec_come_back_to_the_bit(threshold: float) -> None:
    codec = parse(TwoBit(threshold=threshold).spec())
    assert isinstance(codec, TwoBit) and codec.threshold == threshold


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("2bits", r"no codec is called '2bits'; known: 1bit, 2bit, bf16, .* Did you mean '2bit'\?"),
        ("", "no codec is called ''"),
        ("zstd", "no codec is called 'zstd'; known: "),
        ("2bit:treshold=1", r"codec '2bit' has no parameter 'treshold'; known: threshold\. Did you mean 'threshold'\?"),
        ("fp16:x=1", "'fp16' has no parameter 'x'; it has none"),
        ("2bit:threshold=0", "codec '2bit': threshold is 0, expected a number from 1e-30 to 1e30"),
        ("2bit:threshold=nan", "threshold is nan"),
        ("2bit:threshold=much", "threshold is 'much', expected a number"),
        ("2bit:threshold", "expected parameter=value, got 'threshold'"),
        ("2bit:threshold=1,threshold=2", "'threshold' is given twice"),
        ("topk:ratio=1.5", "ratio is 1.5, expected 0 < ratio <= 1"),
        ("int8:block=1000", "block is 1000, expected a power of two from 32 to 65536"),
        ("int8:feedback=1", "feedback is 1, expected True or False"),
        ("qsgd:levels=256", "levels is 256, expected an integer from 1 to 255"),
        ({"threshold": 0.5}, "needs a 'type'"),
        (7, "as text or as a dict, got int 7"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_explained(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(spec)


@dataclass(kw_only=True)
class Rounded(Blockwise):
    """To multiples of a step, as whole bytes. Source: this test."""

    step: float = real(0.1, "a positive number", positive)

    @property
    def has_feedback(self) -> bool:
        return True

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        return (Part("codes", "|i1"),)

    def quantise(self, values: Any, parts: list[Any], place: Place) -> None:
        parts[0][:] = np.clip(np.rint(values / self.step), -127, 127)

    def restore(self, parts: list[Any], out: Any) -> None:
        np.multiply(parts[0], self.step, out=out)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(registry.CODECS, "classes", dict(registry.CODECS.classes))
    return register("rounded")(Rounded)


def test_a_codec_of_ones_own_is_two_methods(own: Any) -> None:
    codec, state, grad = parse("rounded:step=0.25"), CodecState(), normal(70_000)
    assert isinstance(codec, own) and "rounded" in names() and codec.spec() == "rounded:step=0.25"
    got = sent(codec, grad, state)
    assert got + state.arrays["residual"] == pytest.approx(grad, abs=1e-6) and np.abs(got - grad).max() <= 0.13
    assert codec.encoded_bytes(70_000) == 70_000


def test_a_name_is_taken_once(own: Any) -> None:
    with pytest.raises(ConfigError, match=r"'2bit' is already shoal.kvstore.codecs.signs.TwoBit"):
        register("2bit")(Rounded)
    with pytest.raises(ConfigError, match="letters, digits and dashes, got 'A b'"):
        register("A b")
    assert register("rounded")(Rounded) is Rounded


# Parts from the network.


def _refused(codec: Codec, parts: Sequence[Any], n: int) -> str:
    out = np.full(n, 99, np.float32)
    with pytest.raises(RemoteProtocolError, match=f"^codec {codec.name}: ") as error:
        codec.decode(parts, out)
    assert (out == 99).all(), "out was written before the parts were checked"
    return str(error.value)


@pytest.mark.parametrize("spec", VARIANTS)
def test_malformed_parts_are_refused_before_anything_is_written(spec: str) -> None:
    codec, n = parse(spec), 3000
    parts = codec.encode(normal(n), CodecState(), AT)
    assert "parts, got" in _refused(codec, [], n)
    assert "parts, got" in _refused(codec, [*parts, *parts, *parts], n)
    for i, part in enumerate(parts):
        for bad in (part[:-1], np.append(part, part[:1]), part.reshape(1, -1), part.astype("|b1"), part.astype(">i8")):
            _refused(codec, [*parts[:i], bad, *parts[i + 1 :]], n)


@pytest.mark.parametrize("spec", VARIANTS)
def test_the_parts_of_another_size_are_refused(spec: str) -> None:
    codec = parse(spec)
    parts = codec.encode(normal(100_000), CodecState(), AT)
    _refused(codec, parts, 10)


@pytest.mark.parametrize(
    ("low", "counts", "why"),
    [
        ([1, 1], [2, 0], "not ascending"),
        ([5, 1], [2, 0], "not ascending"),
        ([1, 4464], [1, 1], "not below 70000"),
        ([1, 2], [1, 0], "add up to 1"),
        ([1, 2], [2**32 - 1, 3], "add up to 4294967298"),
    ],
)
def test_positions_out_of_range_are_refused(low: list[int], counts: list[int], why: str) -> None:
    parts = [np.ones(2, np.float32), np.array(low, "<u2"), np.array(counts, "<u4")]
    assert why in _refused(parse("topk"), parts, 70_000)


def test_factors_that_do_not_make_the_slice_are_refused() -> None:
    codec = parse("powersgd")
    p = np.ones((4, 2), np.float32)
    assert "4 rows by 4 columns are not 15 values" in _refused(codec, [p, p], 15)
    for bad in (
        np.ones((4, 3), np.float32),
        np.ones(8, np.float32),
        p.astype(np.float64),
        np.ones((4, 2, 1), np.float32),
    ):
        assert "expected matrices of float32 and 2 columns" in _refused(codec, [p, bad], 16)


def test_votes_that_do_not_fit_are_refused() -> None:
    out = np.full(64, 99, np.float32)
    good = parse("sign").encode(normal(64), CodecState(), AT)
    for bad in ([], [good[0][:1]], [good[0].astype(np.int64)]):
        with pytest.raises(RemoteProtocolError, match=r"^codec sign: "):
            vote([good, bad], out)
    assert (out == 99).all()


ARRAYS = st.tuples(
    st.sampled_from(["<f2", "<f4", "<f8", "|i1", "|u1", "<u2", "<u4", "<u8", "<i2"]),
    st.integers(0, 40),
    st.binary(min_size=320, max_size=320),
).map(lambda t: np.frombuffer(t[2], t[0])[: t[1]])


@given(spec=st.sampled_from(VARIANTS), parts=st.lists(ARRAYS, max_size=4), n=st.integers(0, 40))
@settings(max_examples=300)
def test_any_nonsense_is_decoded_or_refused_and_nothing_else(spec: str, parts: list[Any], n: int) -> None:
    with suppress(RemoteProtocolError):
        parse(spec).decode(parts, np.empty(n, np.float32))


@given(spec=st.sampled_from(VARIANTS), n=st.integers(1, 40), data=st.binary(min_size=64, max_size=64))
@settings(max_examples=300)
def test_parts_of_the_right_form_with_any_bits_are_decoded_or_refused(spec: str, n: int, data: bytes) -> None:
    codec = parse(spec)
    parts = codec.encode(normal(n), CodecState(), AT)
    noise = [np.frombuffer((data * 20)[: p.nbytes], p.dtype) for p in parts]
    with suppress(RemoteProtocolError):
        codec.decode(noise, np.empty(n, np.float32))
