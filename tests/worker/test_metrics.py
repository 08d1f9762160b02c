"""Metrics against their definitions, and against PyTorch where it has them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, ShapeError
from shoal.worker import metrics
from shoal.worker.loop import evaluate

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 4, 30)
SCORES = RNG.normal(size=(30, 4))
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)


def value(metric: Any, labels: Any, preds: Any, **params: Any) -> float:
    meter = metrics.create(metric, **params)
    meter.update(labels, preds)
    result: float = meter.get()[1]
    return result


def test_accuracy_counts_the_largest_scores() -> None:
    assert value("accuracy", LABELS, SCORES) == np.mean(SCORES.argmax(axis=1) == LABELS)


def test_accuracy_takes_class_numbers_too() -> None:
    assert value("acc", np.array([1, 2, 3]), np.array([1.0, 2.0, 0.0])) == pytest.approx(2 / 3)


def test_accuracy_takes_labels_with_an_axis_of_their_own() -> None:
    assert value("acc", LABELS[:, None], SCORES) == value("acc", LABELS, SCORES)
    assert value("acc", np.array([1, 0]), np.array([[1], [1]])) == 0.5


def test_accuracy_of_images_takes_the_axis_of_the_classes() -> None:
    scores, labels = RNG.normal(size=(2, 5, 3, 3)), RNG.integers(0, 5, (2, 3, 3))
    assert value("accuracy", labels, scores) == np.mean(scores.argmax(axis=1) == labels)
    assert value("accuracy", labels, np.moveaxis(scores, 1, -1), axis=-1) == np.mean(scores.argmax(axis=1) == labels)


def test_accuracy_refuses_one_score_for_each_label() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 1\).*\(2,\), and 0.75 is no class number.*BinaryAccuracy"):
        value("accuracy", np.array([1, 0]), np.array([[1.0], [0.75]]))


def test_a_regression_without_a_metric_has_no_accuracy() -> None:
    data = [(np.array([[0.5], [1.0]]), np.array([[1.0], [2.0]]))]
    assert math.isnan(evaluate(lambda x: x, data)["accuracy"])
    with pytest.raises(ShapeError, match="'mae' or 'mse'"):
        evaluate(lambda x: x, data, "accuracy")


def test_binary_accuracy_counts_scores_above_the_threshold() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0, 0.0]), np.array([[0.9], [0.5], [0.2], [-1.0]])
    assert value("binary_accuracy", labels, scores) == value("BinaryAccuracy", labels, scores) == 0.75
    assert value(metrics.BinaryAccuracy(threshold=0.0), labels > 0, scores) == 0.75
    with pytest.raises(ShapeError, match="binary_accuracy"):
        value("binary_accuracy", labels, SCORES)


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_top_k_accuracy_agrees_with_torch(k: int) -> None:
    top = torch.from_numpy(SCORES).topk(min(k, 4)).indices.numpy()
    assert value("top_k_accuracy", LABELS, SCORES, top_k=k) == np.mean(
        [y in t for y, t in zip(LABELS, top, strict=True)]
    )
    assert metrics.TopKAccuracy(k).get()[0] == f"top_k_accuracy_{k}"


def test_top_one_of_equal_scores_is_the_first_as_in_accuracy() -> None:
    scores, labels = np.zeros((4, 4)), np.arange(4)
    assert value("top_k_acc", labels, scores) == value("acc", labels, scores) == 0.25
    assert value("top_k_acc", labels, scores, top_k=3) == 0.75


def test_a_score_that_is_no_number_is_never_among_the_best() -> None:
    assert value("top_k_acc", np.zeros(2, int), np.full((2, 3), np.nan), top_k=2) == 0.0


def test_errors_of_regression() -> None:
    truth, found = np.array([1.0, 2.0, 3.0]), np.array([[1.5], [2.0], [1.0]])
    assert value("mae", truth, found) == pytest.approx(2.5 / 3)
    assert value("mse", truth, found) == pytest.approx(4.25 / 3)
    assert value("rmse", truth, found) == pytest.approx(math.sqrt(4.25 / 3))


def test_the_root_is_taken_once_over_all_batches() -> None:
    meter = metrics.RMSE()
    meter.update(np.zeros(3), np.array([1.0, 1.0, 1.0]))
    meter.update(np.zeros(1), np.array([3.0]))
    assert meter.get() == ("rmse", pytest.approx(math.sqrt(12 / 4)))


def test_cross_entropy_agrees_with_torch() -> None:
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(SCORES), torch.from_numpy(LABELS)).item()
    assert value("ce", LABELS, PROBABILITIES) == pytest.approx(expected, rel=1e-12)
    assert value("ce", LABELS, SCORES, from_logits=True) == pytest.approx(expected, rel=1e-12)
    assert value("perplexity", LABELS, PROBABILITIES) == pytest.approx(math.exp(expected), rel=1e-12)


def test_cross_entropy_ignores_a_label() -> None:
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(SCORES), torch.from_numpy(LABELS), ignore_index=2)
    assert value("ce", LABELS, SCORES, from_logits=True, ignore_label=2) == pytest.approx(expected.item(), rel=1e-12)
    marked = np.where(LABELS == 2, -1, LABELS)
    assert value("ce", marked, SCORES, from_logits=True, ignore_label=-1) == pytest.approx(expected.item(), rel=1e-12)


def test_cross_entropy_takes_sequences() -> None:
    labels, scores = LABELS.reshape(5, 6), PROBABILITIES.reshape(5, 6, 4)
    assert value("ce", labels, scores) == pytest.approx(value("ce", LABELS, PROBABILITIES))
    assert value("perplexity", labels, scores, ignore_label=0) < 10


def test_large_scores_and_impossible_labels_stay_finite() -> None:
    assert value("ce", [np.array([1])], [np.array([[1.0, 0.0]])]) == pytest.approx(-math.log(1e-12))
    assert value("ce", np.array([0]), np.array([[1e4, 0.0]]), from_logits=True) == 0.0
    assert value("perplexity", np.array([1]), np.array([[1e4, 0.0]]), from_logits=True) == math.inf


def naive_f1(truth: Any, said: Any) -> float:
    found = np.sum(truth & said)
    total = np.sum(truth) + np.sum(said)
    return float(2 * found / total) if total else 0.0


def test_f1_of_two_classes() -> None:
    truth, scores = RNG.integers(0, 2, 50), RNG.random(50)
    expected = naive_f1(truth == 1, scores > 0.5)
    assert value("f1", truth, scores) == pytest.approx(expected)
    assert value("f1", truth, scores[:, None]) == pytest.approx(expected)
    assert value("f1", truth, np.stack([1 - scores, scores], axis=1)) == pytest.approx(expected)
    assert value("f1", truth, scores, threshold=0.9) == pytest.approx(naive_f1(truth == 1, scores > 0.9))


def test_f1_of_many_classes() -> None:
    said = SCORES.argmax(axis=1)
    macro = np.mean([naive_f1(np.equal(LABELS, c), said == c) for c in range(4)])
    assert value("f1", LABELS, SCORES, class_type="multiclass", average="macro") == pytest.approx(macro)
    micro = value("f1", LABELS, SCORES, class_type="multiclass")
    assert micro == pytest.approx(value("acc", LABELS, SCORES))


def test_f1_of_many_labels() -> None:
    truth, scores = RNG.integers(0, 2, (20, 3)), RNG.random((20, 3))
    assert value("f1", truth, scores, class_type="multilabel") == pytest.approx(naive_f1(truth == 1, scores > 0.5))


def test_f1_is_of_all_batches_together_not_their_mean() -> None:
    truth, scores = RNG.integers(0, 2, 50), RNG.random(50)
    meter = metrics.F1()
    meter.update(truth[:10], scores[:10])
    meter.update(truth[10:], scores[10:])
    assert meter.get()[1] == pytest.approx(value("f1", truth, scores))
    meter.reset()
    assert math.isnan(meter.get()[1])


def test_f1_without_any_positive_is_zero() -> None:
    assert value("f1", np.zeros(3), np.zeros(3)) == 0.0


def test_loss_is_the_mean_of_what_it_is_given() -> None:
    assert value("loss", None, np.array([1.0, 2.0, 6.0])) == 3.0


def test_objects_with_asnumpy_are_taken() -> None:
    class Wrapped:
        def __init__(self, array: Any) -> None:
            self.array = array

        def asnumpy(self) -> Any:
            return self.array

    assert value("acc", Wrapped(LABELS), Wrapped(SCORES)) == value("acc", LABELS, SCORES)


def test_several_outputs_are_counted_together() -> None:
    assert value("mae", [np.zeros(1), np.zeros(3)], [np.ones(1), np.zeros(3)]) == 0.25


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 30), max_size=4), name=st.sampled_from(["acc", "mse", "ce", "perplexity", "rmse"]))
def test_cutting_into_batches_changes_nothing(cuts: list[int], name: str) -> None:
    bounds = [0, *sorted(cuts), 30]
    labels, preds = (LABELS, PROBABILITIES) if name in ("acc", "ce", "perplexity") else (LABELS, SCORES[:, 0])
    meter = metrics.create(name)
    for a, b in itertools.pairwise(bounds):
        meter.update(labels[a:b], preds[a:b])
    assert meter.get()[1] == pytest.approx(value(name, labels, preds), rel=1e-12)


def test_half_precision_is_summed_in_double() -> None:
    meter = metrics.create("loss")
    for _ in range(30):
        meter.update(None, np.full(1000, 0.1, "float16"))
    assert meter.get()[1] == pytest.approx(float(np.float16(0.1)), rel=1e-12)


def test_before_the_first_batch_and_after_reset_there_is_no_value() -> None:
    meter = metrics.create("acc")
    assert math.isnan(meter.get()[1])
    meter.update(LABELS, SCORES)
    meter.reset()
    assert math.isnan(meter.get()[1])


def test_several_metrics_in_one() -> None:
    meter = metrics.create(["acc", metrics.CrossEntropy(), lambda label, pred: 1.5])
    meter.update(LABELS, PROBABILITIES)
    names, values = meter.get()
    assert names == ["accuracy", "cross-entropy", "<lambda>"]
    assert values == [value("acc", LABELS, SCORES), value("ce", LABELS, PROBABILITIES), 1.5]
    assert meter.get_name_value() == list(zip(names, values, strict=True))
    meter.reset()
    assert all(math.isnan(v) for v in meter.get()[1])


def test_a_composite_grows() -> None:
    meter = metrics.CompositeEvalMetric()
    meter.add("mae")
    meter.update(np.zeros(2), np.ones(2))
    assert meter.get() == (["mae"], [1.0])


def test_a_function_may_give_a_sum_and_a_count() -> None:
    meter = metrics.CustomMetric(lambda label, pred: (float(np.sum(pred)), len(pred)), name="mean")
    meter.update(np.zeros(2), np.array([1.0, 2.0]))
    meter.update(np.zeros(1), np.array([6.0]))
    assert meter.get() == ("mean", 3.0)


def test_a_metric_of_ones_own_can_be_registered() -> None:
    @metrics.register("largest_error")
    class LargestError(metrics.MAE):
        pass

    assert isinstance(metrics.create("Largest_Error"), LargestError)


def test_what_a_metric_shows_of_itself() -> None:
    meter = metrics.create("mae")
    meter.update(np.zeros(1), np.ones(1))
    assert repr(meter) == "MAE(mae=1)"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no metric is called 'acuracy'; known: acc, accuracy, "):
        metrics.create("acuracy")


def test_an_unknown_parameter_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"metric 'acc': .*'topk'"):
        metrics.create("acc", topk=3)


@pytest.mark.parametrize("params", [{"class_type": "ternary"}, {"average": "mean"}])
def test_unknown_words_are_refused(params: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"metric 'f1': '.*' is none of"):
        metrics.create("f1", **params)


def test_the_first_none_of_the_best_is_refused() -> None:
    with pytest.raises(ConfigError, match="top_k is 0, expected at least 1"):
        metrics.TopKAccuracy(0)


@pytest.mark.parametrize(
    ("name", "labels", "preds"),
    [
        ("acc", np.zeros(3), np.zeros((4, 2))),
        ("mae", np.zeros(3), np.zeros(4)),
        ("mse", np.zeros((2, 2)), np.zeros(3)),
        ("ce", np.zeros(3), np.zeros(3)),
        ("ce", np.array([4]), np.zeros((1, 4))),
        ("top_k_acc", np.array([-1]), np.zeros((1, 4))),
        ("acc", [np.zeros(3)], [np.zeros(3), np.zeros(3)]),
    ],
)
def test_shapes_and_labels_that_do_not_fit_are_refused(name: str, labels: Any, preds: Any) -> None:
    with pytest.raises(ShapeError, match="metric '"):
        metrics.create(name).update(labels, preds)
