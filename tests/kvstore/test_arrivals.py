"""Slices that have come, or have gone, and a server that is restarted: the scheduler's word decides who serves them."""

import json
from pathlib import Path

import numpy as np

from shoal.kvstore.arrays import as_payload
from shoal.kvstore.events import Received, Send
from shoal.kvstore.server.arrivals import Arrivals, take_in
from shoal.kvstore.server.calls import Calls
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.freeze import freeze, freeze_slice, thaw
from shoal.kvstore.server.image import draw
from shoal.kvstore.server.moving import Moves, differs, position
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Ack, Elsewhere, Have, Init, Pull, Push, Retire, SetOptimizer
from tests.kvstore.simnet import SimServer, roster

ANSWER = ("peer", Have(slice=7, attempt=1, trial=False, taken=True))


def push(rank: int, clock: int, seq: int = 5) -> Push:
    value = as_payload(np.ones(4, np.float32))
    return Push(worker=rank, incarnation=1, seq=seq, slice=7, clock=clock, pulled=clock, want=False, value=value)


def serving(pushes: int = 3, rank: int = 0) -> SimServer:
    """A server with slice 7, to which worker 0 has pushed so many times."""
    server = SimServer(rank, 2)
    value = as_payload(np.zeros(4, np.float32))
    server.handle("w0", Init(seq=0, store=1, slice=7, key="k", gate="asp", reduce="sum", value=value), 0.0)
    for clock in range(pushes):
        server.handle("w0", push(0, clock, 10 + clock), 0.0)
    return server


def told(server: SimServer) -> tuple[str, dict[str, np.ndarray]]:
    image = draw(server.table.cells[7], {})
    state = {**freeze_slice(server.core, 7), "image": image.meta, "owed": [], "calls": [], "update": None}
    return json.dumps(state), image.arrays


def empty(rank: int = 1) -> tuple[ServerCore, Table]:
    core = ServerCore(rank, 2, "run")
    core.roster(roster(2))
    return core, Table()


def restored(folder: Path, core: ServerCore, table: Table) -> Moves:
    Arrivals(folder, lambda: None).restore(core, table, Calls(table))
    assert core.moves is not None
    return core.moves


def kept(folder: Path, server: SimServer, cluster: str = "run") -> Arrivals:
    arrivals = Arrivals(folder, lambda: None)
    state, arrays = told(server)
    arrivals.keep(7, state, arrays, cluster, ANSWER)
    while not (ready := arrivals.written()):
        pass
    assert ready == [ANSWER]
    return arrivals


def test_a_slice_that_was_confirmed_is_there_after_a_restart_and_served_when_the_log_says_so(tmp_path: Path) -> None:
    kept(tmp_path, serving())
    core, table = empty()
    moves = restored(tmp_path, core, table)
    assert 7 in moves.staged and 7 not in core.entries
    assert core.handle(Received("w0", push(0, 3)), 0.0) == []  # not before
    moves.seat(7, 1, 2)
    assert core.entries[7].counted(0) == 3
    (again,) = core.handle(Received("w0", push(0, 2)), 0.0)
    assert isinstance(again, Send) and isinstance(again.message, Ack)
    assert core.ledgers[0].duplicate == 1


def test_what_another_run_has_left_is_not_taken(tmp_path: Path) -> None:
    kept(tmp_path, serving(), cluster="another")
    core, table = empty()
    Arrivals(tmp_path, lambda: None).restore(core, table, Calls(table))
    assert core.moves is None


def test_a_snapshot_that_is_newer_than_the_file_counts(tmp_path: Path) -> None:
    server = serving(pushes=3)
    kept(tmp_path, server)
    server.handle("w0", push(0, 3, 20), 0.0)
    core = thaw(json.loads(json.dumps(freeze(server.core))), 2)
    Arrivals(tmp_path, lambda: None).restore(core, server.table, Calls(server.table))
    assert core.entries[7].counted(0) == 4


def test_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    kept(tmp_path, serving())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    core, table = empty()
    Arrivals(tmp_path, lambda: None).restore(core, table, Calls(table))
    assert core.moves is None and not table.cells


def test_the_file_goes_when_it_is_not_needed(tmp_path: Path) -> None:
    arrivals = kept(tmp_path, serving())
    arrivals.forget(7)
    assert not list(tmp_path.iterdir())


def test_a_server_restored_from_a_snapshot_does_not_serve_what_has_moved_away() -> None:
    core = thaw(json.loads(json.dumps(freeze(serving().core))), 2)
    core.moves = Moves(core)
    core.moves.seat(7, 3, 9)
    for m in (push(0, 3), Pull(worker=0, incarnation=1, seq=6, slice=7, clock=0, payload=True)):
        (answer,) = core.handle(Received("w0", m), 0.0)
        assert isinstance(answer, Send)
        assert answer.message == Elsewhere(seq=m.seq, slice=7, server=3, epoch=9)


def test_an_older_word_than_the_last_says_nothing() -> None:
    core = serving().core
    core.moves = Moves(core)
    core.moves.seat(7, 0, 5)
    core.moves.seat(7, 3, 4)
    assert 7 in core.entries


def test_what_is_frozen_waits_and_goes_on_when_it_stays() -> None:
    server = serving()
    core = server.core
    moves = core.moves = Moves(core)
    moves.freeze(7)
    late = push(0, 3, 30)
    assert core.handle(Received("w0", late), 0.0) == core.handle(Received("w0", late), 0.0) == []
    assert moves.released() == []
    moves.thaw(7)
    assert moves.released() == [("w0", late)]
    assert server.handle("w0", late, 0.0)[0][1] == Ack(seq=30, version=4, floor=0)


def test_what_concerns_a_whole_store_waits_while_a_slice_changes_hands() -> None:
    core = serving().core
    moves = core.moves = Moves(core)
    moves.freeze(7)
    rest = Retire(worker=0, incarnation=1, seq=40, store=1, barrier=1)
    rule = SetOptimizer(worker=0, incarnation=1, seq=41, store=1, name="sgd", params={}, lr_mult={}, wd_mult={})
    assert core.handle(Received("w0", rest), 0.0) == core.handle(Received("w0", rule), 0.0) == []
    moves.thaw(7)
    assert [m for _, m in moves.released()] == [rest, rule]


def test_who_was_parked_is_told_where_the_slice_is() -> None:
    server = SimServer(0, 2)
    value = as_payload(np.zeros(4, np.float32))
    server.handle("w0", Init(seq=0, store=1, slice=7, key="k", gate="bsp", reduce="sum", value=value), 0.0)
    server.handle("w0", push(0, 0), 0.0)
    server.handle("w0", Pull(worker=0, incarnation=1, seq=6, slice=7, clock=1, payload=True), 0.0)
    moves = server.core.moves = Moves(server.core)
    moves.freeze(7)
    assert moves.seat(7, 1, 2) == [Send("w0", Elsewhere(seq=6, slice=7, server=1, epoch=2))]


def test_a_server_takes_a_slice_only_from_one_that_has_heard_the_same() -> None:
    source, target = serving(), serving(rank=1).core
    assert differs(target, 1, position(source.core, 1)) == ""
    target.handle(Received("w1", Retire(worker=1, incarnation=1, seq=3, store=1)), 0.0)
    assert "barriers" in differs(target, 1, position(source.core, 1))
    target.retired.clear()
    del target.members[1]
    assert "workers" in differs(target, 1, position(source.core, 1))


def test_a_barrier_that_is_over_need_not_be_known_one_that_is_not_must() -> None:
    source, target = serving(), serving(rank=1).core
    for rank in (0, 1):
        rest = Retire(worker=rank, incarnation=1, seq=50 + rank, store=1, barrier=1)
        source.core.handle(Received(f"w{rank}", rest), 0.0)
        expected = "" if rank else "barriers"
        assert expected in differs(target, 1, position(source.core, 1))
    assert differs(target, 1, position(source.core, 1)) == ""
    late = serving().core
    assert "barriers" in differs(source.core, 1, position(late, 1))


def test_a_server_without_the_store_takes_over_what_the_other_has_heard() -> None:
    source = serving()
    source.handle("w0", Retire(worker=0, incarnation=1, seq=50, store=1, barrier=1), 0.0)
    core, table = empty()
    assert differs(core, 1, position(source.core, 1)) == ""
    state, arrays = told(source)
    entry = take_in(core, table, Calls(table), 7, json.loads(state), arrays)
    assert core.desks[1].barriers == {0: 1} and entry.desk is core.desks[1]
