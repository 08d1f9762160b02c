"""What a run has cost."""

import re
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import NodeStatus, Snapshot
from shoal.lab.cost import Prices, estimate, read_prices, shown_cost
from shoal.lab.report import final_report, render

ROOT = Path(__file__).parents[2]
PRICES = Prices({"scheduler": 0.1, "server": 0.5, "worker": 2.0}, "USD", "a list", "2026-01-31")


def node(role: str, rank: int, age_s: float) -> NodeStatus:
    return NodeStatus(
        role=role,
        rank=rank,
        incarnation=1,
        host="h",
        pid=1,
        state="done",
        silent_s=0,
        status=None,
        report={},
        age_s=age_s,
    )


def finished(*nodes: NodeStatus, age_s: float = 3600.0) -> Snapshot:
    return Snapshot(
        phase="finished", cluster="c", mode="bsp", reason="", culprit="", missing=(), nodes=nodes, age_s=age_s
    )


RUN = finished(node("server", 0, 3600), node("worker", 0, 3600), node("worker", 1, 1800))


def test_each_role_costs_its_processes_times_hours_times_price() -> None:
    found = estimate(RUN, PRICES)
    assert found["roles"]["worker"] == {"count": 2, "hours": 1.5, "per_hour": 2.0, "cost": 3.0}
    assert found["total"] == pytest.approx(0.1 + 0.5 + 3.0) and found["currency"] == "USD"


def test_a_replica_costs_what_a_server_does_unless_it_is_said() -> None:
    assert PRICES.of("replica") == 0.5 and Prices({"replica": 0.2}, "USD", "", "").of("replica") == 0.2


def test_the_report_has_it_and_shows_whose_prices_they_are() -> None:
    report = final_report(RUN, prices=PRICES)
    assert report["cost"]["total"] == pytest.approx(3.6) and final_report(RUN)["cost"] is None
    assert "about 3.6 USD" in shown_cost(report["cost"]) and "2026-01-31: a list" in shown_cost(report["cost"])
    assert render(report) is not None


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return str(path)


WHOLE = '[cost]\ncurrency = "EUR"\nsource = "ours"\ndate = 2026-01-31\n[cost.per_hour]\nworker = 1\n'


def test_a_table_is_read(tmp_path: Path) -> None:
    assert read_prices(written(tmp_path, WHOLE)) == Prices({"worker": 1.0}, "EUR", "ours", "2026-01-31")


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        ("worker = 1", "", "no prices yet"),
        ("worker = 1", "boss = 1", "boss = 1"),
        ("worker = 1", "worker = -1", "worker = -1"),
        ('source = "ours"', 'source = ""', "must say source"),
        ("date = 2026-01-31", "", "date = 2026-01-31"),
    ],
)
def test_a_table_that_would_mislead_is_refused(tmp_path: Path, was: str, now: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_prices(written(tmp_path, WHOLE.replace(was, now, 1)))


@pytest.mark.parametrize(("text", "says"), [("[coast]\n", "has no table [cost]"), ("[cost", "cannot be read")])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_prices(written(tmp_path, text))


def test_the_table_that_is_shipped_says_nothing_and_is_refused_until_somebody_does() -> None:
    with pytest.raises(ConfigError, match="no prices yet"):
        read_prices(str(ROOT / "deploy" / "cloud" / "prices.toml"))
