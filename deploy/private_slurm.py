"""A Slurm of one's own on this machine, for as long as a check lasts: munged, slurmctld and several slurmd.

The nodes are called n1, n2, ... and are all this machine, each with a port of its own. Nothing outside of the given
folder is read or written, and every process that was started is ended, by its id. Works with and without root.
"""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["MISSING", "PrivateSlurm", "until"]

MISSING = "apt-get install slurmctld slurmd slurm-client munge   (Debian, Ubuntu; its services need not run)"

SBIN = "/usr/sbin"

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "salloc", "scancel", "scontrol", "sinfo", "squeue")

CONF = """
ClusterName=shoalcheck
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout={timeout_s}
KillWait=5
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=8 RealMemory=16000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def until(true: Callable[[], object], within_s: float, what: str) -> None:
    """Wait for it.

    Raises:
        TimeoutError: it took too long.
    """
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(0.05)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}{SBIN}")


def _ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    for first in range(17000, 32000, 100):
        taken = []
        try:
            for port in range(first, first + count):
                taken.append(socket.socket())
                taken[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for s in taken:
                s.close()
    raise OSError("no ports are free")


class PrivateSlurm:
    """Running inside a ``with``.

    Args:
        folder: an empty one, for keys, sockets and logs; its path must be short (a socket is in it).
        nodes: how many.
        timeout_s: after which a node that is silent counts as down.
    """

    def __init__(self, folder: Path, nodes: int = 2, timeout_s: int = 30) -> None:
        self.folder, self.nodes = folder, nodes
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        first = _ports(nodes + 1)
        told = {"folder": folder, "host": socket.gethostname(), "user": getpass.getuser(), "nodes": nodes}
        told |= {"port": first, "first": first + 1, "last": first + nodes, "timeout_s": timeout_s}
        for name in ("state", *(f"spool.n{i + 1}" for i in range(nodes))):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(CONF.format(**told))
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    @staticmethod
    def missing() -> list[str]:
        """Programs that are not on this machine."""
        return [name for name in PROGRAMS if _program(name) is None]

    def __enter__(self) -> "PrivateSlurm":
        try:
            self._munge()
            self._daemon("slurmctld", "-D", "-i")
            for i in range(self.nodes):
                self.start_node(f"n{i + 1}")
            until(
                lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").stdout.strip() == str(self.nodes), 60, "nodes"
            )
        except BaseException:
            self.close()
            raise
        return self

    def _munge(self) -> None:
        key = self.folder / "munge.key"
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as f:
            f.write(secrets.token_bytes(128))
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "-F", "--force", *(f"--{n}={self.folder}/munge.{end}" for n, end in names.items()))
        until((self.folder / "munge.socket").exists, 20, "munged listens")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self._daemon(f"slurmd {name}", "-D", "-N", name)

    def _daemon(self, name: str, *args: str) -> None:
        program = _program(name.split()[0])
        assert program is not None, MISSING
        with (self.folder / f"{name.replace(' ', '.')}.said").open("ab") as said:
            self.daemons[name] = subprocess.Popen(
                [program, *args],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def ask(
        self, *command: str, timeout_s: float = 60.0, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """What a command of Slurm says."""
        return subprocess.run(command, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)

    def jobs(self) -> list[str]:
        """Ids of jobs that are not over."""
        return self.ask("squeue", "-h", "-o", "%i").stdout.split()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all of it: jobs, then each daemon."""
        if "slurmctld" in self.daemons:
            for job in self.jobs():
                self.ask("scancel", job)
            with suppress(TimeoutError):
                until(lambda: not self.jobs(), 20, "jobs end")
        for process in reversed(self.daemons.values()):
            process.send_signal(signal.SIGTERM)
        for process in self.daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
