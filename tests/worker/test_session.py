"""How a worker's script ends, and what its session says of it."""

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shoal.errors import MembershipError, NodeLostError, StoreTimeoutError
from shoal.kvstore.wire.messages import Member
from shoal.worker.session import Session, _attempt, _execute, _weights
from tests.kvstore.threads import thread_cluster
from tests.patience import RUN_S


def session(aborted: bool = False) -> Any:
    event = threading.Event()
    if aborted:
        event.set()
    return SimpleNamespace(aborted=event, membership=SimpleNamespace(rank=3), leaves=lambda: False)


def ends(error: BaseException | None, *, aborted: bool = False) -> tuple[int, str]:
    def work() -> None:
        if error is not None:
            raise error

    code, failed, _ = _attempt(session(aborted), "script.py", work)
    return code, failed


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, (0, "")),
        (SystemExit(), (0, "")),
        (SystemExit(0), (0, "")),
        (SystemExit(3), (3, "")),
        (SystemExit("why"), (1, "")),
        (SystemExit(143), (143, "")),
        (KeyboardInterrupt(), (130, "interrupted")),
        (ValueError("boom"), (1, "ValueError: boom")),
    ],
)
def test_however_a_script_ends_there_is_a_code_and_a_reason(error: BaseException | None, end: tuple[int, str]) -> None:
    assert ends(error) == end


def test_the_text_of_sys_exit_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ends(SystemExit("no such data set"))
    assert capsys.readouterr().err == "no such data set\n"


def test_when_another_process_has_failed_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(NodeLostError("worker 1 was killed"), aborted=True) == (1, "worker 1 was killed")
    assert capsys.readouterr().err == "shoal: worker 3 stops: worker 1 was killed\n"


def test_when_settling_fails_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(StoreTimeoutError("worker 3 has waited")) == (1, "worker 3 has waited")
    assert "Traceback" not in capsys.readouterr().err


def test_a_traceback_begins_in_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text("def f():\n    raise ValueError('boom')\nf()\n")
    before = sys.argv, list(sys.path)
    try:
        code, failed, _ = _attempt(session(), str(script), lambda: _execute(str(script), ["--x"]))
    finally:
        sys.argv, sys.path[:] = before
    said = capsys.readouterr().err
    assert (code, failed) == (1, "ValueError: boom")
    assert said.count("Traceback") == 1 and "session.py" not in said and 'train.py", line 3' in said


def test_a_script_that_cannot_be_read_shows_its_own_line_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("x = = 3\n")
    before = sys.argv, list(sys.path)
    try:
        code, failed, _ = _attempt(session(), str(script), lambda: _execute(str(script), []))
    finally:
        sys.argv, sys.path[:] = before
    said = capsys.readouterr().err
    assert code == 1 and failed.startswith("SyntaxError: invalid syntax (train.py, line 1)")
    assert "x = = 3" in said and "session.py" not in said and "runpy" not in said


def test_an_io_thread_that_fails_fails_every_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []
    monkeypatch.setattr("shoal.worker.session.ABORT_GRACE_S", 0.0)
    ended = threading.Event()
    monkeypatch.setattr("shoal.worker.session._exit_now", lambda reason: (killed.append(reason), ended.set()))
    s = Session("127.0.0.1:9")
    try:
        monkeypatch.setattr(s.loop, "step", lambda: 1 / 0)
        s._drive()
        with pytest.raises(MembershipError, match=r"I/O thread failed: ZeroDivisionError"):
            s.membership.barrier("b", RUN_S)
        assert ended.wait(RUN_S) and "I/O thread" in killed[0] and s.aborted.is_set()
    finally:
        s.transport.close(0.0)
        s.ring.close()


@pytest.mark.net
def test_the_digest_tells_the_stores_of_a_run_apart() -> None:
    with thread_cluster(1, 1) as cluster:
        stores = [cluster.store(0), cluster.store(0)]
        for i, kv in enumerate(stores):
            kv.init("w", np.full(1, i, np.float32))
        assert [list(_weights(kv)) for kv in stores] == [["w"], ["w (store 2)"]]


def launch(tmp_path: Path, source: str, workers: int = 2, *options: str) -> "subprocess.CompletedProcess[str]":
    script = tmp_path / "script.py"
    script.write_text("import os, signal, sys\nimport numpy as np\nimport shoal\n" + source)
    command = [sys.executable, "-m", "shoal", "run", "-n", str(workers), "-s", "1", "--no-progress", *options]
    command.append(str(script))
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)


@pytest.mark.net
@pytest.mark.slow
def test_two_trainers_in_one_script_train_their_own_weights_in_a_cluster_too(tmp_path: Path) -> None:
    source = """
from shoal import autograd, nn
def network(weight):
    net = nn.HybridSequential()
    net.add(nn.Dense(1, use_bias=False))
    net.initialize(shoal.init.Constant(weight))
    return net
nets = [network(1.0), network(5.0)]
trainers = [shoal.Trainer(n.collect_params(), "sgd", {"learning_rate": r}) for n, r in zip(nets, (1.0, 0.125))]
for _ in range(2):
    for net, trainer in zip(nets, trainers):
        with autograd.record():
            loss = net(shoal.np.ones((1, 1))).sum()
        loss.backward()
        trainer.step(1)
if shoal.rank() == 0:
    print("weights", *[p.data().asnumpy().item() for n in nets for p in n.collect_params().values()])
"""
    got = launch(tmp_path, source)
    assert got.returncode == 0 and "weights -1.0 4.75" in got.stdout, got.stdout + got.stderr


@pytest.mark.net
@pytest.mark.slow
def test_a_worker_that_is_stopped_while_it_waits_for_the_others_says_goodbye(tmp_path: Path) -> None:
    source = """
from shoal.scheduler.client import Membership
kv = shoal.kv.create()
kv.init("w", np.zeros(1, np.float32))
wait = Membership.barrier
def barrier(self, name, timeout_s):
    if name == "finish":
        os.kill(os.getpid(), signal.SIGTERM)
    wait(self, name, timeout_s)
if shoal.rank() == 1:
    Membership.barrier = barrier
else:
    kv.barrier()
"""
    got = launch(tmp_path, source, 2, "--worker-grace-s", "0")
    said = got.stdout + got.stderr
    assert got.returncode == 143 and "worker 1" in said and "stopped by SIGTERM" in said, said
    assert "Traceback" not in said, said


@pytest.mark.net
@pytest.mark.slow
def test_a_server_that_fails_ends_the_run_with_its_name_and_its_traceback(tmp_path: Path) -> None:
    source = """
kv = shoal.kv.create(reduce="sum")
kv.set_optimizer(shoal.optim.create("sgd"))
kv.init("n", np.zeros(2, np.int32))
"""
    got = launch(tmp_path, source)
    said = got.stdout + got.stderr
    assert got.returncode == 1, said
    assert said.count("Traceback") == 1 and "table.py" in said, said
    last = said.strip().splitlines()[-1]
    assert "the run has failed: server 0" in last and "DTypeError: cannot optimize" in last and "'n'" in last, said


@pytest.mark.net
@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
def test_whoever_is_done_first_is_waited_for_no_more(first: int, tmp_path: Path) -> None:
    source = f"""
kv = shoal.kv.create()
kv.init("w", np.zeros(2, np.float32))
for step in range(2 if shoal.rank() == {first} else 4):
    value = kv.pushpull("w", np.full(2, 4.0 * shoal.rank() + step, np.float32))
print("worker", shoal.rank(), "ends with", *value)
"""
    got = launch(tmp_path, source)
    assert got.returncode == 0, got.stderr
    alone = 4.0 * (1 - first) + 3
    assert f"worker {first} ends with 3.0 3.0" in got.stdout
    assert f"worker {1 - first} ends with {alone} {alone}" in got.stdout


def test_who_comes_late_does_not_connect_again_to_servers_that_it_has_the_newest_address_of() -> None:
    """A second connection under one name, before the first is gone, is one that a server's socket ignores."""
    calls: list[tuple[str, ...]] = []
    wire = SimpleNamespace(
        connect=lambda peer, address: calls.append(("connect", peer, address)),
        disconnect=lambda peer: calls.append(("disconnect", peer)),
    )
    shell = SimpleNamespace(
        core=SimpleNamespace(links={}), arrived=lambda rank, now: None, replaced=lambda rank, now: None
    )
    late: Any = SimpleNamespace(transport=wire, shell=shell, loop=SimpleNamespace(clock=lambda: 0.0), _servers={})

    def server(incarnation: int) -> Member:
        address = f"127.0.0.1:{5000 + incarnation}"
        return Member(role="server", rank=1, incarnation=incarnation, address=address, host="h", pid=incarnation)

    Session._on_arrived(late, server(3))
    for old in (2, 3):
        Session._on_replaced(late, server(old))
    assert calls == [("connect", "server1", "127.0.0.1:5003")]
    Session._on_replaced(late, server(4))
    assert calls[1:] == [("disconnect", "server1"), ("connect", "server1", "127.0.0.1:5004")]
