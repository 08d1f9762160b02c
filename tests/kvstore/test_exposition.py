"""Numbers in Prometheus' text format."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.kvstore import exposition
from shoal.kvstore.exposition import Family, Histogram, families, provide, text
from tests.kvstore.exposition_parser import parse


@given(st.lists(st.tuples(st.text(), st.floats() | st.integers(-(10**30), 10**30)), unique_by=lambda x: x[0]))
@example([(r"\n", 0.0)])
def test_every_label_and_number_comes_back_as_it_was(samples: list[tuple[str, float]]) -> None:
    family = Family("shoal_x", "gauge", "Some \\ help\nin two lines.")
    for label, value in samples:
        if "".join(label.splitlines()) == label.replace("\n", "") and "\r" not in label:
            family.add(value, peer=label)
    told = parse(text([family])) if family.samples else {}
    for _, labels, value in family.samples:
        got = told["shoal_x"][1]["shoal_x", (("peer", str(labels["peer"])),)]
        assert got == float(value) or (math.isnan(got) and math.isnan(value))


@given(st.lists(st.floats(0, 1e6)), st.lists(st.floats(0, 1e5), min_size=1, unique=True).map(sorted))
def test_a_histogram_counts_what_is_at_most_each_bound(values: list[float], bounds: list[float]) -> None:
    h = Histogram(bounds)
    for value in values:
        h.observe(value)
    _, samples = parse(text([Family("shoal_h_seconds", "histogram", "h").spread(h, worker=1)]))["shoal_h_seconds"]
    for bound in bounds:
        at = tuple(sorted((("le", exposition._number(bound)), ("worker", "1"))))
        assert samples["shoal_h_seconds_bucket", at] == sum(v <= bound for v in values)
    assert samples["shoal_h_seconds_count", (("worker", "1"),)] == len(values)


def test_a_family_without_samples_is_left_out() -> None:
    assert text([Family("shoal_x_total", "counter", "x")]) == ""


def test_what_grows_while_it_is_read_is_read_again() -> None:
    tries: list[int] = []

    def source() -> list[Family]:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("dictionary changed size during iteration")
        return [Family("shoal_x", "gauge", "x").add(7)]

    provide("test", source)
    try:
        assert [f.name for f in families()].count("shoal_x") == 1 and len(tries) == 3
    finally:
        provide("test", None)
    assert "shoal_x" not in [f.name for f in families()]  # stores of other tests may have families of their own


@pytest.mark.parametrize(
    "wrong",
    [
        "shoal_x 1\n",
        "# HELP shoal_x x\n# TYPE shoal_x counter\nshoal_x 1\n",
        '# HELP shoal_x x\n# TYPE shoal_x gauge\nshoal_x{a="1"} 1\nshoal_x{a="1"} 2\n',
        '# HELP shoal_x x\n# TYPE shoal_x gauge\nshoal_x{a="\\x"} 1\n',
    ],
)
def test_the_reader_of_these_tests_is_strict(wrong: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        parse(wrong)
