"""Metrics: ``shoal.metric.create("accuracy")``; see `shoal.worker.metrics`."""

from shoal.worker.metrics import (
    F1,
    MAE,
    MSE,
    RMSE,
    Accuracy,
    BinaryAccuracy,
    CompositeEvalMetric,
    CrossEntropy,
    CustomMetric,
    EvalMetric,
    Loss,
    Perplexity,
    TopKAccuracy,
    create,
    register,
)

__all__ = [
    "F1",
    "MAE",
    "MSE",
    "RMSE",
    "Accuracy",
    "BinaryAccuracy",
    "CompositeEvalMetric",
    "CrossEntropy",
    "CustomMetric",
    "EvalMetric",
    "Loss",
    "Perplexity",
    "TopKAccuracy",
    "create",
    "register",
]
