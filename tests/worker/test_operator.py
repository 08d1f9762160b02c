"""``shoal control``: an operator changes settings of a run, and is told what came of it."""

from typing import Any

import numpy as np
import pytest

from shoal.cli import main
from shoal.errors import StoreTimeoutError
from shoal.ops import optim
from shoal.scheduler.operator import change_settings
from tests.worker.runs import run


def test_an_operator_changes_a_run_between_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    def work(kv: Any) -> float:
        kv.init("a", np.zeros(1, np.float32))
        kv.set_optimizer(optim.create("sgd", learning_rate=1.0))
        if kv.rank == 0:
            codes.append(main(["control", "--scheduler", r.address, "lr=0.5", "--at-clock", "2"]))
            codes.append(main(["control", "--scheduler", r.address, "beta=0.5"]))
            codes.append(main(["control", "--scheduler", r.address]))
        kv.barrier()
        return [kv.pushpull("a", np.ones(1, np.float32), np.empty(1, np.float32))[0] for _ in range(4)][-1]

    codes: list[int] = []
    with run(2, 1, "bsp") as r:
        assert r.each(work) == [-3.0, -3.0]
        end = r.finish()
    assert codes == [0, 2, 0]
    said = capsys.readouterr()
    change = "change 1: lr=0.5 at clock 2, store 1, asked for by "
    first, listed = said.out.splitlines()
    assert first.startswith(change) and first.endswith("; every process of the run has heard of it")
    assert listed.startswith(change)
    assert "optimizer 'sgd' has no parameter 'beta'; known: lr, learning_rate" in said.err
    assert end["last"].changes[0].settings == {"learning_rate": 0.5}


def test_words_that_are_no_settings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["control", "--scheduler", "127.0.0.1:1", "faster"]) == 2
    assert main(["control", "--scheduler", "127.0.0.1:1", "lr=1", "--at-clock", "-1"]) == 2
    assert main(["control", "--scheduler", "127.0.0.1:1", "lr=1", "lr=2"]) == 2
    err = capsys.readouterr().err
    assert "expected NAME=VALUE, such as lr=0.01, got 'faster'" in err and "at least 0" in err and "twice" in err


def test_an_operator_does_not_wait_for_ever() -> None:
    with pytest.raises(StoreTimeoutError, match="is the run going on"):
        change_settings("127.0.0.1:1", {"lr": 1}, timeout_s=0.2)
