"""What `fit` is given, and cannot use."""

from typing import Any

import pytest

import shoal
from shoal import nn
from shoal.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"loss": "ce"}, "loss is 'ce'; expected a function of"),
        ({"trainer": None}, "trainer is None; expected a shoal.Trainer"),
        ({"callbacks": [print]}, "callbacks is a list of shoal.Callback objects, got <built-in function print>"),
        ({"callbacks": shoal.Callback()}, "callbacks is a list of shoal.Callback objects, got <"),
    ],
)
def test_what_fit_cannot_use_is_refused_before_it_begins(given: dict[str, Any], says: str) -> None:
    net = nn.Dense(2, in_units=3)
    net.initialize()
    options = {"loss": nn.L2Loss(), "trainer": shoal.Trainer(net.collect_params(), "sgd"), "epochs": 1, **given}
    with pytest.raises(ConfigError, match=says):
        shoal.fit(net, [], **options)
