"""deploy/k8s, run without Kubernetes: each pod is a network namespace with its name, address, variables and command.

Commands, variables (the downward API's among them), probes and ``preStop`` are read from the rendered manifests; the
controllers are this file, which starts a pod's command once more under the same name and with the same volume. What
differs: the program is this checkout instead of an image; folders of the pod are folders of the test; Services are
names in /etc/hosts; users, capabilities, policies and limits are left out. Not exercised: a kubelet, a cluster.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.kvstore.wire.keys import new_keys
from tests.composefile import ROOT
from tests.e2e.test_kubernetes_files import container, controller, environment
from tests.netlab import Lab, why_not
from tests.patience import RUN_S

NO_LAB = why_not()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.skipif(bool(NO_LAB), reason=NO_LAB),
]

PODS = ("shoal-scheduler-0", "shoal-server-0", "shoal-server-1", "shoal-worker-0", "shoal-worker-1")
NAMED = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']


class Cluster:
    """The pods of the overlay ``cpu``, with the script's epochs as given."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        self.key = str(new_keys(str(folder / "keys")))
        self.lab = Lab(list(PODS), {"shoal-scheduler": PODS[0]}, net="10.78.0")
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Cluster":
        self.lab.__enter__()
        try:
            for pod in PODS:
                self.start(pod)
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self.lab.close()

    def start(self, pod: str) -> None:
        """Start a pod, anew if there was one: with its name, its volume and an empty /tmp."""
        for stale in (self.folder / pod / "tmp").glob("*"):
            stale.unlink()
        argv = [str(self.epochs) if word == "30" else word for word in container(self._owner(pod))["args"]]
        with open(self.folder / f"{pod}.log", "a") as out:
            self.processes[pod] = self.lab.popen(
                pod,
                [*NAMED, pod, sys.executable, "-m", "shoal", *(self._here(pod, word) for word in argv)],
                env=self._environment(pod),
                cwd=str(ROOT),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def exec(self, pod: str, command: list[str]) -> int:
        """The exit code of a probe or a hook."""
        assert command[0] == "shoal"
        words = [*NAMED, pod, sys.executable, "-m", *command]
        return int(self.lab.run(pod, words, env=self._environment(pod)).returncode)

    def probe(self, pod: str, name: str) -> bool:
        """What the kubelet finds: ``readinessProbe`` or ``livenessProbe``."""
        return self.exec(pod, container(self._owner(pod))[name]["exec"]["command"]) == 0

    def _owner(self, pod: str) -> Any:
        return controller("cpu", pod.rpartition("-")[0])

    def _environment(self, pod: str) -> dict[str, str]:
        variables = environment("cpu", self._owner(pod))
        known = {"{status.podIP}": self.lab.ip[pod]}
        found = {name: self._here(pod, known.get(value, value)) for name, value in variables.items()}
        return {"PATH": os.environ["PATH"], "SHOAL_SETTLE_S": "1", **found}

    def _here(self, pod: str, path: str) -> str:
        if path.startswith("/run/secrets/"):
            return self.key
        for inside in ("/state", "/tmp"):
            if path.startswith(inside):
                (self.folder / pod / inside[1:]).mkdir(parents=True, exist_ok=True)
                return path.replace(inside, str(self.folder / pod / inside[1:]), 1)
        return path.replace("/app/", f"{ROOT}/", 1)

    def log(self, pod: str) -> str:
        return (self.folder / f"{pod}.log").read_text()

    def until(self, ready: Callable[[], bool], what: str, patience_s: float = RUN_S) -> None:
        """Wait for something."""
        deadline = time.monotonic() + patience_s
        while not ready():
            everything = "\n".join(f"--- {pod}\n{self.log(pod)}" for pod in PODS) if time.monotonic() > deadline else ""
            assert time.monotonic() < deadline, f"waiting for {what}\n{everything}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.processes[PODS[0]].wait(0.1)

    def until_log(self, pod: str, text: str) -> None:
        self.until(lambda: text in self.log(pod), f"{text!r} of {pod}")

    def finished(self) -> dict[str, Any]:
        """The report, when the workers' job is complete and the others stay; then they are told to end."""
        for pod in PODS[3:]:
            assert self.processes[pod].wait(RUN_S) == 0, self.log(pod)
        for pod in PODS[:3]:
            self.until_log(pod, "it stays until SIGTERM")
            assert self.processes[pod].poll() is None and self.probe(pod, "livenessProbe"), pod
        report: dict[str, Any] = json.loads((self.folder / PODS[0] / "state" / "report.json").read_text())
        for pod in PODS[:3]:
            self.processes[pod].terminate()
            assert self.processes[pod].wait(RUN_S) == 0, self.log(pod)
        assert report["ledger"]["balanced"], report["ledger"]
        return report


def test_the_pods_train_the_workers_complete_and_the_others_stay(tmp_path: Path) -> None:
    with Cluster(tmp_path, epochs=20) as cluster:
        cluster.until_log(PODS[0], "declared")
        for pod in PODS:
            assert cluster.probe(pod, "readinessProbe") and cluster.probe(pod, "livenessProbe"), pod
        report = cluster.finished()
    assert (report["workers"], report["servers"]) == (2, 2) and report["accuracy"] > 0.8
    assert f"reached at {cluster.lab.ip[PODS[1]]}:9092" in cluster.log(PODS[1]), "advertised is not where it listens"


def test_a_server_and_a_worker_that_die_are_made_anew_and_take_their_places(tmp_path: Path) -> None:
    with Cluster(tmp_path, epochs=40) as cluster:
        cluster.until_log(PODS[0], "epoch ")
        for pod in ("shoal-server-1", "shoal-worker-1"):
            cluster.lab.kill(cluster.processes[pod])
            cluster.processes[pod].wait(RUN_S)
            cluster.start(pod)
            cluster.until_log(pod, "takes the place of")
        cluster.finished()


def test_a_server_that_is_drained_before_its_pod_goes_leaves_the_run_whole(tmp_path: Path) -> None:
    with Cluster(tmp_path, epochs=40) as cluster:
        cluster.until_log(PODS[0], "epoch ")
        hook = container(controller("cpu", "shoal-server"))["lifecycle"]["preStop"]["exec"]["command"]
        assert cluster.exec("shoal-server-1", hook) == 0, cluster.log("shoal-server-1")
        gone = cluster.processes["shoal-server-1"]
        gone.terminate()
        assert gone.wait(RUN_S) == 0, cluster.log("shoal-server-1")
        cluster.start("shoal-server-1")  # on another machine: it comes as a new server
        cluster.until(lambda: "server 2" in cluster.log(PODS[0]), "the server that was made anew")
        report = cluster.finished()
    assert report["ledger"]["lost"] == 0
