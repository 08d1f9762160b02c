"""What ``docker compose up`` runs, run without containers: each container is a network namespace.

Commands, environment, folders and order are read from docker-compose.yml. What differs from containers: the program is
this checkout instead of the image; service names are resolved by each namespace's own /etc/hosts, where compose has a
name server; folders of the container are replaced by those that the file mounts there; ``user``, ``read_only`` and the
other restrictions are left out (deploy/smoke_podman.sh has them).
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from shoal.kvstore.wire.keys import new_keys
from tests.composefile import ROOT, Container, containers
from tests.netlab import Lab, Link, why_not
from tests.patience import RUN_S

NO_LAB = why_not()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.skipif(bool(NO_LAB), reason=NO_LAB),
]

WHO = re.compile(r"(worker|server) (\d+) \(host \S+, pid (\d+)\)")


class Up:
    """``docker compose up`` with these variables and ``--scale`` options."""

    def __init__(
        self,
        volumes: Path,
        variables: Mapping[str, str],
        scale: Mapping[str, int] | None = None,
        profiles: Sequence[str] = (),
    ) -> None:
        self.volumes = volumes
        self.containers = containers(variables, scale, profiles)
        self._key = str(new_keys(str(volumes / "keys")))
        aliases = {c.service: c.name for c in self.containers if c.number == 1}
        self.lab = Lab([c.name for c in self.containers], aliases)
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Up":
        self.lab.__enter__()
        try:
            self._start()
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self.lab.close()

    def _start(self) -> None:
        """In the order of ``depends_on``, each when what it depends on is healthy."""
        healthy: set[str] = set()
        for container in sorted(self.containers, key=lambda c: len(c.after)):
            for service in container.after:
                if service not in healthy:
                    self._wait_healthy(next(c for c in self.containers if c.service == service))
                    healthy.add(service)
            self.start(container)

    def start(self, container: Container, *, beside: bool = False) -> None:
        """Start one container; or the same once more beside it, where its port for metrics is taken."""
        env = self._environment(container)
        if beside:
            env.pop("SHOAL_METRICS")
        with open(self._log(container.name), "w") as out:
            self.processes[container.name] = self.lab.popen(
                container.name,
                [sys.executable, "-m", "shoal", *(self._here(container, word) for word in container.argv)],
                env=env,
                cwd=self._here(container, container.working_dir),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def _environment(self, container: Container) -> dict[str, str]:
        """With the path of the mounted key here, where it is mounted."""
        here = {f"/run/secrets/{name}": self._key for name in container.secrets}
        paths = {k: self._here(container, v) for k, v in container.environment.items() if v.startswith("/runs")}
        return {"PATH": os.environ["PATH"], **{k: here.get(v, v) for k, v in container.environment.items()}, **paths}

    def _here(self, container: Container, path: str) -> str:
        """The folder of this machine that is mounted at a path inside the container."""
        for inside, source in container.mounts.items():
            if path.startswith(inside):
                named = not source.startswith((".", "/"))
                outside = self.volumes / source if named else ROOT / source
                outside.mkdir(exist_ok=True)
                return path.replace(inside, str(outside), 1)
        return str(ROOT) if path.startswith("/") else path

    def _wait_healthy(self, container: Container) -> None:
        command = [sys.executable, "-m", *container.healthcheck]
        env = self._environment(container)
        self.until(
            lambda: self.lab.run(container.name, command, env=env).returncode == 0,
            container.name,
        )

    def until(self, ready: Callable[[], bool], what: str, patience_s: float = RUN_S) -> None:
        """Wait for something; while waiting nobody may die."""
        deadline = time.monotonic() + patience_s
        while not ready():
            dead = [name for name, p in self.processes.items() if p.poll() is not None]
            assert time.monotonic() < deadline and not dead, f"waiting for {what}; dead: {dead}\n{self.everything()}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                next(iter(self.processes.values())).wait(0.05)

    def until_log(self, name: str, text: str) -> None:
        """Wait until a container has said ``text``."""
        self.until(lambda: text in self.log(name), f"{text!r} from {name}")

    def until_training(self) -> None:
        """Wait until contributions flow."""
        self.until_log("scheduler-1", "declared")
        before = self.lab.packets[0]
        self.until(lambda: self.lab.packets[0] > before + 3000, "traffic")

    def wait(self, patience_s: float, but: str = "") -> dict[str, int]:
        """Exit codes of all containers, or of all ``but`` one."""
        deadline = time.monotonic() + patience_s
        codes = {}
        for name, p in self.processes.items():
            if name == but:
                continue
            try:
                codes[name] = p.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"{name} still runs after {patience_s} s\n{self.everything()}")
        return codes

    def who(self, name: str) -> str:
        """How the scheduler calls the process in a container, such as "worker 1 (host a, pid 4711)"."""
        pid = str(self.processes[name].pid)
        return next(m[0] for m in WHO.finditer(self.log("scheduler-1")) if m[3] == pid)

    def _log(self, name: str) -> Path:
        return self.volumes / f"{name}.log"

    def log(self, name: str) -> str:
        """What a container has printed."""
        return self._log(name).read_text()

    def everything(self) -> str:
        """What all have printed."""
        return "\n".join(f"--- {name}\n{self.log(name)}" for name in self.processes)

    def report(self) -> dict[str, Any]:
        """The report in the volume."""
        loaded: dict[str, Any] = json.loads((self.volumes / "runs" / "report.json").read_text())
        return loaded


SHORT = {"SHOAL_SCRIPT": "digits.py --epochs 3", "SHOAL_SETTLE_S": "2"}
TWO = {"SHOAL_WORKERS": "2", "SHOAL_SERVERS": "2"}
ENDLESS = {**TWO, "SHOAL_SCRIPT": "digits.py --epochs 100000", "SHOAL_WORKER_GRACE_S": "0"}
ELASTIC = {**TWO, "SHOAL_SCRIPT": "digits.py --epochs 5", "SHOAL_LEASE_S": "3", "SHOAL_WORKER_GRACE_S": "30"}


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Up]:
    """A run in the middle of its training, with the lease that the file has."""
    with Up(tmp_path, ENDLESS) as up:
        up.until_training()
        yield up


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Up]:
    """The same with a short lease."""
    with Up(tmp_path, {**ENDLESS, "SHOAL_LEASE_S": "5"}) as up:
        up.until_training()
        yield up


@pytest.mark.parametrize("scale", [{}, {"worker": 4}], ids=["up", "up --scale worker=4"])
def test_the_composed_cluster_trains_and_every_container_ends_with_0(tmp_path: Path, scale: dict[str, int]) -> None:
    with Up(tmp_path, SHORT, scale) as up:
        codes = up.wait(RUN_S)
        assert set(codes.values()) == {0}, up.everything()
        report = up.report()
        assert "the run is finished" in up.log("scheduler-1") and "weights" in up.log("scheduler-1")
    assert (report["workers"], report["servers"]) == (scale.get("worker", 2), 2)
    assert report["accuracy"] > 0.9 and report["ledger"]["balanced"]


def test_a_killed_worker_ends_the_composed_run_by_name(endless: Up) -> None:
    culprit = endless.who("worker-2")
    endless.lab.kill(endless.processes["worker-2"])
    codes = endless.wait(RUN_S, but="worker-2")
    assert 0 not in codes.values(), endless.everything()
    assert all(culprit in endless.log(name) for name in codes), endless.everything()


@pytest.mark.parametrize("victim", ["server-1", "worker-1"])
def test_a_container_without_network_is_named_when_its_lease_is_over(watched: Up, victim: str) -> None:
    culprit = watched.who(victim)
    watched.lab.cut(victim)
    codes = watched.wait(RUN_S)
    assert 0 not in codes.values(), watched.everything()
    assert all(culprit in watched.log(name) for name in codes if name != victim), watched.everything()
    assert "the scheduler (scheduler:9091): silent for" in watched.log(victim)


def test_a_scheduler_without_network_is_named_by_everybody(watched: Up) -> None:
    watched.lab.cut("scheduler-1")
    codes = watched.wait(RUN_S)
    assert 0 not in codes.values(), watched.everything()
    members = [name for name in codes if name != "scheduler-1"]
    assert all("the scheduler (scheduler:9091): silent for" in watched.log(name) for name in members)


def test_a_server_that_only_the_workers_cannot_reach_is_named_by_them(tmp_path: Path) -> None:
    with Up(tmp_path, {**ENDLESS, "SHOAL_TIMEOUT_S": "6"}) as up:  # it does reach the scheduler: its lease goes on
        up.until_training()
        culprit = up.who("server-2").split(" (")[0]
        up.lab.partition({"server-2"}, {"worker-1", "worker-2"})
        codes = up.wait(RUN_S)
        assert 0 not in codes.values(), up.everything()
        assert culprit in up.log("worker-1") + up.log("worker-2"), up.everything()


def test_a_slow_and_lossy_network_changes_nothing_but_the_time(tmp_path: Path) -> None:
    hashes = []
    settings = {**SHORT, "SHOAL_SCRIPT": "digits.py --epochs 1", "SHOAL_WORKERS": "2", "SHOAL_SERVERS": "2"}
    for name, link in (("good", Link()), ("bad", Link(delay_s=0.002, loss=0.01, rate_bytes_s=50e6))):
        with Up(tmp_path / name, settings) as up:
            up.lab.link_all(link)
            assert set(up.wait(RUN_S).values()) == {0}, up.everything()
            hashes.append(up.report()["weights_sha256"])
    assert hashes[0] == hashes[1]


def test_a_worker_that_comes_too_late_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    run = {"SHOAL_SCRIPT": "digits.py --epochs 20", "SHOAL_SETTLE_S": "1", "SHOAL_WORKER_GRACE_S": "0"}
    with Up(tmp_path, run, {"worker": 2}) as up:
        up.until_log("scheduler-1", "declared")
        late = next(c for c in up.containers if c.name == "worker-2")
        early = up.processes.pop("worker-2")
        up.start(late, beside=True)
        assert up.processes.pop("worker-2").wait(RUN_S) == 1
        assert "comes too late: the run has begun, with 2 workers" in up.log("worker-2")
        assert early.wait(RUN_S) == 0 and set(up.wait(RUN_S).values()) == {0}, up.everything()


def test_stopping_one_container_ends_the_run_and_says_why(endless: Up) -> None:
    culprit = endless.who("worker-1")
    endless.processes["worker-1"].terminate()
    codes = endless.wait(RUN_S)
    assert codes.pop("worker-1") == 143 and set(codes.values()) == {1}, endless.everything()
    assert all(f"{culprit}: stopped by SIGTERM" in endless.log(name) for name in codes), endless.everything()


def test_a_worker_without_the_key_is_refused_and_said_to_be_by_both_sides(endless: Up) -> None:
    worker = next(c for c in endless.containers if c.name == "worker-1")
    command = [sys.executable, "-m", "shoal", "worker", "--scheduler", "scheduler:9091", "--join-timeout-s", "2"]
    env = {k: v for k, v in endless._environment(worker).items() if k not in ("SHOAL_KEYS", "SHOAL_METRICS")}
    script = str(ROOT / "examples" / "digits.py")
    refused = endless.lab.run("worker-1", [*command, "--insecure", script], env=env)
    assert refused.returncode == 1
    assert (
        "the scheduler at scheduler:9091 does not let this process in: it asks for the cluster's key" in refused.stderr
    )
    assert "is not let in: it does not have this cluster's key" in endless.log("scheduler-1")
    unready = endless.lab.run("worker-1", [*command, script], env=env)
    assert unready.returncode == 2 and "shoal keys new DIR" in unready.stderr
    assert all(p.poll() is None for p in endless.processes.values()), endless.everything()


def test_interrupting_everybody_as_ctrl_c_does_ends_everybody(endless: Up) -> None:
    for process in endless.processes.values():
        process.terminate()
    assert 0 not in endless.wait(RUN_S).values(), endless.everything()


# --- workers come and go ----------------------------------------------------------------------------------------------


def whole(up: Up, but: str = "") -> dict[str, Any]:
    """The report of a run that everybody ``but`` one has seen to its end, with an account that balances."""
    codes = up.wait(200, but)
    assert set(codes.values()) == {0}, up.everything()
    report = up.report()
    assert report["ledger"]["balanced"] and report["accuracy"] > 0.9, report
    return report


def test_a_worker_that_the_network_cuts_off_for_longer_than_its_lease_comes_back(tmp_path: Path) -> None:
    hashes = []
    for name, cut in (("undisturbed", False), ("cut", True)):
        with Up(tmp_path / name, ELASTIC) as up:
            up.until_training()
            if cut:
                up.lab.cut("worker-2")
                up.until_log("scheduler-1", "has been silent for")
                up.lab.heal()
                up.until_log("scheduler-1", "is heard again")
            hashes.append(whole(up)["weights_sha256"])
    assert hashes[0] == hashes[1]


def test_servers_and_workers_that_lose_sight_of_each_other_for_a_while_go_on(tmp_path: Path) -> None:
    with Up(tmp_path, ELASTIC) as up:
        up.lab.link_all(Link(delay_s=0.001, loss=0.01))
        up.until_training()
        for _ in range(3):
            up.lab.partition({"worker-1"}, {"server-1"})
            dropped = up.lab.packets[1]
            up.until(lambda: up.lab.packets[1] > dropped + 4, "lost packets")  # noqa: B023
            up.lab.heal()
        whole(up)


def test_a_worker_that_is_started_while_the_run_is_under_way_takes_part(tmp_path: Path) -> None:
    with Up(tmp_path, {**ELASTIC, "SHOAL_SCRIPT": "digits.py --epochs 20"}) as up:
        up.until_training()
        early = up.processes.pop("worker-2")
        up.start(next(c for c in up.containers if c.name == "worker-2"), beside=True)
        report = whole(up)
        assert early.wait(RUN_S) == 0, up.everything()
    assert [w["rank"] for w in report["per_worker"] if w["samples"]] == [0, 1, 2], report["per_worker"]


def test_a_worker_that_is_killed_for_good_is_given_up_and_the_others_finish(tmp_path: Path) -> None:
    with Up(tmp_path, {**ELASTIC, "SHOAL_WORKER_GRACE_S": "1"}) as up:
        up.until_training()
        culprit = up.who("worker-2")
        up.lab.kill(up.processes["worker-2"])
        report = whole(up, but="worker-2")
        assert f"{culprit} has been silent for" in up.log("scheduler-1"), up.everything()
    assert report["ledger"]["rejected"] == 0


def test_stopping_one_worker_lets_it_leave_and_the_others_finish(tmp_path: Path) -> None:
    with Up(tmp_path, ELASTIC) as up:
        up.until_training()
        culprit = up.who("worker-2")
        leaves = up.processes.pop("worker-2")
        leaves.terminate()
        assert leaves.wait(RUN_S) in (0, 143), up.everything()
        whole(up)
        assert culprit in up.log("scheduler-1")
