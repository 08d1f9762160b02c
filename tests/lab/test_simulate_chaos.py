"""The chaos file in virtual time: nothing is counted twice, nothing is lost, and the rest is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import cli
from shoal.errors import ConfigError
from shoal.lab.chaos.plan import parse_plan
from shoal.lab.simulate import simulate
from shoal.lab.simulate_laws import Constant, Exponential
from shoal.lab.simulate_problems import Quadratic
from shoal.lab.simulate_time import Network

POOR = [{"what": what, "who": "worker * <-> server *", "percent": 10} for what in ("drop", "duplicate", "reorder")]


def run(*events: dict[str, Any], **changes: Any) -> Any:
    """4 workers of constant speed, unless told otherwise."""
    plan = parse_plan({"seed": 1, "chaos": list(events)}) if events else None
    return simulate(**{"workers": 4, "compute": Constant(1.0), "rounds": 20, "chaos": plan, **changes})


@pytest.mark.parametrize("gate", ["bsp", "ssp:2", "asp", "backup:1", "kasync:2"])
@pytest.mark.parametrize("network", [Network(), Network(delay=Exponential(0.01))], ids=["instant", "late"])
def test_on_a_poor_network_every_contribution_is_counted_once(gate: str, network: Network) -> None:
    found = run(*POOR, gate=gate, network=network, servers=2, slices=2, rounds=30)
    assert found.met > 100 and found.duplicates > 0
    assert sum(found.clocks) == 120 and all(
        a + d <= 2 * (c + 2) for a, d, c in zip(found.applied, found.dropped, found.clocks, strict=True)
    )
    assert sum(found.applied) + sum(found.dropped) >= 2 * 120 - 2 * 4


def test_synchronous_weights_are_the_same_bits_on_a_poor_network() -> None:
    quiet, poor = run(problem=Quadratic()), run(*POOR, problem=Quadratic())
    assert np.array_equal(quiet.weights, poor.weights) and poor.seconds > quiet.seconds


def test_the_same_file_gives_the_same_run_and_another_seed_another() -> None:
    def seconds(seed: int) -> float:
        return float(run(chaos=parse_plan({"seed": seed, "chaos": POOR}), gate="asp").seconds)

    assert seconds(1) == seconds(1) != seconds(2)


def test_a_worker_that_is_three_times_slower_for_a_while_is_so_with_what_it_is_at() -> None:
    slow = {"what": "slow", "who": "worker 0", "at_s": 0.5, "for_s": 6}
    found = run(slow, rounds=4)  # half a step, 6 s at a third of the speed, 1.5 steps at full speed
    assert found.seconds == pytest.approx(0.5 + 6 + 1.5) and found.faults == ("slow worker 0 x3 for 6 s (at 0.5 s)",)


def test_a_worker_that_stands_still_is_waited_for() -> None:
    found = run({"what": "stop", "who": "worker 1", "at_s": 1.5, "for_s": 10}, rounds=4)
    assert found.seconds == pytest.approx(14)


def test_a_worker_that_is_killed_is_waited_for_by_nobody() -> None:
    found = run({"what": "kill", "who": "worker 3", "at_s": 2.5})
    assert found.clocks[3] == 2 and sum(found.clocks) == 80 and found.seconds == pytest.approx(26)
    assert run({"what": "kill", "who": "worker 3", "at_step": 2}).clocks[3] <= 2


def test_a_link_that_is_cut_holds_the_round_up_until_it_is_whole() -> None:
    found = run({"what": "partition", "who": "worker 0 <-> server 0", "at_s": 0.5, "for_s": 20}, rounds=3)
    assert 20.5 <= found.seconds < 27


def test_messages_that_are_late_one_way_make_every_round_longer() -> None:
    found = run({"what": "delay", "who": "worker 2 -> server 0", "delay_s": 0.25}, rounds=10)
    assert found.seconds == pytest.approx(10 * 1.25 + 0.25, abs=0.3)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"what": "full-disk", "who": "server 0"}, "the simulator has no 'full-disk'; it has drop"),
        ({"what": "clock-jump", "who": "worker 0", "at_s": 1, "by_s": 1}, "the simulator has no 'clock-jump'"),
        ({"what": "kill", "who": "server 0", "at_s": 1}, "the simulator can kill workers only, not server 0"),
        ({"what": "stop", "who": "random", "at_s": 1, "for_s": 1}, "can stop workers only, not random"),
        (
            {"what": "drop", "who": "worker 0 -> scheduler", "percent": 1},
            "there is no scheduler in this run",
        ),
    ],
)
def test_what_makes_no_sense_in_a_simulation_is_refused_by_name(event: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as e:
        run(event)
    assert said in str(e.value)


def test_the_command_takes_the_file_and_shows_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chaos.json"
    path.write_text(json.dumps({"chaos": POOR}))
    assert cli.main(["simulate", "--gate", "async", "--rounds", "50", "--chaos", str(path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert found["messages_met"] > 0 and len(found["faults"]) == 3
