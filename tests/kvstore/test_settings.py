"""What may be changed in a store in use, and what is refused."""

from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.control import altered_optimizer, checked_settings, parse_setting, shown
from shoal.kvstore.gates import altered_gate, parse_gate
from shoal.ops import optim

SGD = optim.create("sgd", learning_rate=0.1, momentum=0.9)


def checked(gate: str = "bsp", optimizer: optim.Optimizer | None = SGD, **settings: Any) -> dict[str, Any]:
    return checked_settings(settings, parse_gate(gate), None if optimizer is None else optimizer.spec())


def test_settings_come_back_under_their_proper_names() -> None:
    assert checked("ssp:3", lr=1, slack=5, compression="2bit") == {
        "learning_rate": 1.0,
        "s": 5,
        "codec": checked(codec="2bit")["codec"],
    }


@pytest.mark.parametrize(
    ("gate", "settings", "says"),
    [
        ("bsp", {}, "nothing to change"),
        ("bsp", {"lr": 1, "learning_rate": 2}, "given twice"),
        ("bsp", {"momentun": 0.1}, "known: lr, learning_rate, wd,.*momentum.*codec. Did you mean 'momentum'"),
        ("bsp", {"momentum": 2.0}, "0 <= momentum < 1|momentum is 2.0"),
        ("bsp", {"lr": "fast"}, "learning_rate is 'fast', expected"),
        ("bsp", {"s": 3}, "gate 'sync' has no slack"),
        ("asp", {"s": 3}, "gate 'async' has no slack"),
        ("ssp:3", {"s": -1}, "at least 0; got -1"),
        ("ssp:3", {"s": 1.5}, "whole number"),
        ("bsp", {"max": 3}, "gate 'sync' has no max"),
        ("backup:1", {"max": 3}, "gate 'backup:1' has no max"),
        ("bsp", {"codec": "zip"}, "no codec is called 'zip'"),
        ("bsp", {"clip_norm": 1.0}, "whole keys"),
        ("bsp", {"lr_scheduler": None}, "no parameter 'lr_scheduler'"),
    ],
)
def test_what_the_store_cannot_take_is_refused(gate: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        checked(gate, **settings)


def test_without_an_optimizer_gate_and_codec_are_left() -> None:
    assert checked("ssp:3", None, s=1, codec="none") == {"s": 1, "codec": "none"}
    with pytest.raises(ConfigError, match=r"no optimizer.*known: s, max, codec"):
        checked("ssp:3", None, lr=0.1)


def test_a_rate_that_a_schedule_sets_is_not_set_by_hand() -> None:
    scheduled = optim.create("sgd", learning_rate=0.1, lr_scheduler=optim.FactorScheduler(step=10, factor=0.5))
    with pytest.raises(ConfigError, match="follows FactorScheduler"):
        checked("bsp", scheduled, lr=1)
    assert checked("bsp", scheduled, wd=1e-4) == {"wd": 1e-4}


def test_a_codec_of_gradients_is_refused_for_differences_of_weights() -> None:
    with pytest.raises(ConfigError, match="differences of weights"):
        checked_settings({"codec": "dgc"}, parse_gate("bsp"), None, gradients=False)


def test_an_altered_optimizer_keeps_the_rest() -> None:
    later = altered_optimizer(SGD, {"learning_rate": 0.5, "s": 3, "codec": "bf16"})
    assert later.spec().params == {**SGD.spec().params, "learning_rate": 0.5}
    assert altered_optimizer(SGD, {"s": 3}) is SGD


@pytest.mark.parametrize(
    ("before", "settings", "after"),
    [
        ("ssp:3", {"s": 0}, "ssp:0"),
        ("essp:3,max=9", {"s": 4}, "essp:4,max=9"),
        ("asp", {"max": 9}, "asp:max=9"),
        ("ssp:3,max=9", {"max": None}, "ssp:3"),
        ("fedbuff:4", {"max": 2}, "fedbuff:4,max=2"),
        ("ssp:3", {"momentum": 0.1}, "ssp:3"),
    ],
)
def test_an_altered_gate_is_named_after_its_limits(before: str, settings: dict[str, Any], after: str) -> None:
    gate = altered_gate(parse_gate(before), settings)
    assert gate.name == after
    assert (gate.need, gate.eager) == (parse_gate(before).need, parse_gate(before).eager)


def test_settings_are_read_as_people_write_them() -> None:
    given = dict(map(parse_setting, ["lr=1e-2", "s=5", "codec=2bit:threshold=0.5", "max=none", "nesterov=true"]))
    assert given == {"lr": 0.01, "s": 5, "codec": "2bit:threshold=0.5", "max": None, "nesterov": True}
    assert shown({"learning_rate": 0.01, "s": 5}) == "lr=0.01 s=5"


@pytest.mark.parametrize("text", ["lr", "lr=", "=1"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        parse_setting(text)
