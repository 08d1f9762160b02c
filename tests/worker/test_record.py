"""What a run says of itself."""

import pytest

from shoal.errors import ConfigError
from shoal.worker.record import RunRecord, parse_target


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(target: str = "") -> tuple[RunRecord, Clock, list[dict[str, object]]]:
    clock, shown = Clock(), []
    return RunRecord(parse_target(target), shown.append, clock), clock, shown


def test_time_runs_from_the_first_step_to_the_last() -> None:
    r, clock, _ = record()
    clock.now = 110.0
    r.start()
    clock.now = 114.0
    r.step(32)
    clock.now = 200.0
    assert r.seconds == 4.0 and r.samples == 32


def test_the_rate_is_of_the_last_moments() -> None:
    r, clock, shown = record()
    r.start()
    for second in range(1, 5):
        clock.now = 100.0 + second
        r.step(10 * second)
    assert shown[-1]["samples_per_s"] == 40.0


def test_the_time_to_a_target_is_the_first_that_reaches_it() -> None:
    r, clock, _ = record("accuracy=0.9")
    r.start()
    for seconds, accuracy in ((1.0, 0.5), (2.0, 0.95), (3.0, 0.99)):
        clock.now = 100.0 + seconds
        r.report({"accuracy": accuracy})
    assert r.summary()["seconds_to_target"] == 2.0
    assert r.summary()["target"] == "accuracy=0.9"
    assert r.summary()["metrics"] == {"accuracy": 0.99}


def test_a_loss_reaches_its_target_from_above() -> None:
    r, clock, _ = record("loss=0.1")
    clock.now = 101.0
    r.report({"loss": 0.5})
    assert r.seconds_to_target is None
    r.report({"loss": 0.05})
    assert r.seconds_to_target is not None


def test_a_target_that_is_never_reached_is_none() -> None:
    r, _, _ = record("accuracy=0.9")
    r.report({"accuracy": 0.1})
    assert r.summary()["seconds_to_target"] is None


@pytest.mark.parametrize("text", ["accuracy", "accuracy=", "accuracy=high", "=3="])
def test_a_target_that_is_none_says_so(text: str) -> None:
    with pytest.raises(ConfigError, match="METRIC=VALUE"):
        parse_target(text)


def test_a_result_that_is_no_number_is_named_and_changes_nothing() -> None:
    r = RunRecord()
    with pytest.raises(ConfigError, match="report: accuracy is 'high', expected a number"):
        r.report({"loss": 1.0, "accuracy": "high"})  # type: ignore[dict-item]
    assert r.metrics == {}


def test_notes_are_shown_as_plain_data() -> None:
    import numpy as np

    r, _, shown = record()
    r.note(epoch=1, loss=np.float32(0.5), name="x")
    assert shown == [{"epoch": 1, "loss": 0.5, "name": "x"}] and type(shown[0]["loss"]) is float
