"""The exhaustive search holds the cores to their rules, and finds it when they break them."""

from dataclasses import replace
from typing import Any

import pytest

from shoal.kvstore.client.core import ClientCore
from shoal.kvstore.gates import Gate
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.recovery import Recovery
from shoal.kvstore.wire.messages import Push
from shoal.lab.explore import RULES, Broken, Scope, explore, main


@pytest.mark.parametrize(
    "scope",
    [
        Scope("bsp"),
        Scope("bsp", deaths=1),
        Scope("bsp", servers=1, losses=1, repeats=1, deaths=1),
        Scope("bsp", servers=1, turns=2, losses=1),
        Scope("asp", losses=1, repeats=1),
        Scope("asp", deaths=1),
        Scope("ssp:1", servers=1, turns=2, losses=1),
        Scope("ssp:1", servers=1, turns=3),
        Scope("essp:1", servers=1, losses=1),
        Scope("backup:1"),
        Scope("backup:1", servers=1, losses=1, repeats=1),
        Scope("ksync:2"),
        Scope("kasync:2"),
        Scope("kasync:1", servers=1, deaths=1, losses=1),
        Scope("kbatch:2", servers=1, turns=2),
        Scope("fedbuff:2", losses=1),
        Scope("bsp", workers=3, servers=1),
        Scope("bsp", servers=1, turns=2, deaths=1, leaves=True),
        Scope("asp", servers=1, crashes=1, snapshots=1),
        Scope("asp", servers=1, crashes=1, deaths=1),
        Scope("fedbuff:2", servers=1, crashes=1),
        Scope("ssp:1", servers=1, crashes=1, deaths=1),
        Scope("bsp", servers=1, crashes=1, snapshots=1),
        Scope("bsp", servers=1, crashes=1, deaths=1),
    ],
    ids=lambda s: f"{s.gate} {s.workers}x{s.servers}x{s.turns} -{s.losses} +{s.repeats} !{s.deaths} *{s.crashes}",
)
def test_no_way_breaks_a_rule(scope: Scope, capsys: pytest.CaptureFixture[str]) -> None:
    found = explore(scope)
    with capsys.disabled():
        print(f"\n{scope.gate}: {found.states} states, {found.events} events, {len(RULES)} rules", end="")
    assert found.ends and found.states > 10


def test_a_push_that_is_applied_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    take = ServerCore._push

    def forgetful(self: ServerCore, sender: str, m: Push) -> Any:
        return take(self, sender, replace(m, clock=self.entries[m.slice].counted(m.worker)))

    monkeypatch.setattr(ServerCore, "_push", forgetful)
    with pytest.raises(Broken, match="applied twice") as found:
        explore(Scope("asp", workers=1, servers=1, repeats=1))
    assert "1. Push of worker 0 to server 0 arrives, and will again" in str(found.value)


def test_a_request_that_is_never_repeated_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientCore, "wake", lambda self, now: ([], now + 1.0))
    with pytest.raises(Broken, match="from here none does") as found:
        explore(Scope("asp", workers=1, servers=1, losses=1))
    assert "Push of worker 0 to server 0 is lost" in str(found.value)


def test_a_gate_that_lets_anybody_through_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "ready", lambda self, clock, floor: True)
    with pytest.raises(Broken):
        explore(Scope("bsp", servers=1))


def test_a_loss_that_a_restored_server_does_not_book_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    level = Recovery.level

    def silent(self: Recovery, books: Any, *rest: Any) -> Any:
        actions = level(self, books, *rest)
        for book in books.values():
            book.lost = 0
        return actions

    monkeypatch.setattr(Recovery, "level", silent)
    with pytest.raises(Broken, match="has lost is booked as lost") as found:
        explore(Scope("asp", workers=1, servers=1, turns=2, crashes=1))
    assert "server 0 dies, and comes back" in str(found.value)


def test_a_restored_server_that_sets_clocks_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's repetition of what was counted and lost would pass for a new contribution."""
    monkeypatch.setattr(Recovery, "level", lambda self, books, *rest: [])
    with pytest.raises(Broken):
        explore(Scope("asp", servers=1, turns=2, crashes=1))


def test_a_worker_that_does_not_greet_the_successor_of_a_server_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientCore, "replaced", lambda self, server, now: [])
    with pytest.raises(Broken, match="from here none does"):
        explore(Scope("asp", servers=1, crashes=1))


def test_a_server_that_waits_for_a_dead_worker_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recovery, "awaited", lambda self, members: tuple(r for r in (0, 1) if r not in self.stands))
    with pytest.raises(Broken, match="from here none does"):
        explore(Scope("asp", servers=1, crashes=1, deaths=1))


def test_a_search_that_would_take_too_long_says_so() -> None:
    with pytest.raises(Broken, match="more than 50 states"):
        explore(Scope("bsp"), most=50)


def test_the_command_prints_what_it_has_seen(capsys: Any) -> None:
    assert main(["--gate", "asp", "--servers", "1", "--losses", "1"]) == 0
    out = capsys.readouterr().out
    assert "2 workers x 1 servers x 1 turns, 1 losses" in out and "rules held after every event" in out
