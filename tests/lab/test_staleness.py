"""Histograms of staleness and skew."""

from collections import Counter

from shoal.lab.staleness import bars, by_key, histogram, mean, percentile


def test_histograms_add_up_and_ignore_what_is_none() -> None:
    assert histogram([{"0": 3, "2": 1}, {"2": 4}, None, {"x": 1, "3": "many"}]) == Counter({0: 3, 2: 5})


def test_keys_add_up_over_servers_the_stalest_first() -> None:
    found = by_key([{"staleness_by_key": {"a": [2, 2, 1], "b": [1, 9, 9]}}, {"staleness_by_key": {"a": [2, 4, 4]}}, {}])
    assert list(found) == ["b", "a"]
    assert found["a"] == {"pushes": 4, "mean": 1.5, "max": 4}


def test_a_key_that_nobody_pushed_has_no_staleness() -> None:
    assert by_key([{"staleness_by_key": {"a": [0, 0, 0]}}])["a"] == {"pushes": 0, "mean": 0.0, "max": 0}


def test_means_and_percentiles() -> None:
    counts = Counter({0: 94, 3: 5, 9: 1})
    assert mean(counts) == 0.24 and percentile(counts, 0.95) == 3 and percentile(counts, 1.0) == 9
    assert mean(Counter()) is None and percentile(Counter(), 0.5) is None


def test_bars_are_as_high_as_the_numbers_and_small_ones_still_show() -> None:
    assert bars(Counter({0: 800, 1: 400, 2: 1})) == "█▄▁"


def test_the_last_bar_stands_for_all_beyond() -> None:
    assert bars(Counter({0: 1, 50: 1}), width=4) == "█  █+"
