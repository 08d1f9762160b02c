"""How a launcher reaches other machines: by ssh, or by srun inside a Slurm job."""

import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from shoal.errors import ConfigError
from shoal.scheduler.hosts import Host

__all__ = ["LOST", "Reach", "Srun", "Ssh", "job_directory", "python_path"]

LOST = 255
"""How ssh exits when it has no connection, or has lost it."""

PERIOD_S = 0.05

ASK_S = 30.0
"""How long Slurm may take to say where a node is."""

COPY_S = 1800.0
"""How long the copying to one host may take."""

LEFT_OUT = (".git", "__pycache__", ".venv", "venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", "cluster.key")
"""What is not copied, besides what ``.shoalignore`` names: a line each, as rsync's and tar's --exclude have it."""

IGNORED = ".shoalignore"

OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3")
"""Nobody is asked for a password; a connection that is dead is given up after 15 s."""


class Reach(Protocol):
    """A way to other machines."""

    name: str

    def prepare(self, hosts: Sequence[Host], stopped: Callable[[], bool]) -> None:
        """Make sure that they can be reached and have what the run needs.

        Raises:
            ConfigError: one cannot, or lacks something.
        """

    def command(self, host: Host) -> list[str]:
        """A program whose standard input and output are those of ``shoal attend`` there."""

    def address(self, host: Host) -> str:
        """What the host is called in the network."""

    def lost(self, code: int) -> bool:
        """Whether this exit code of the program says that the connection is gone."""


class Ssh:
    """OpenSSH's client, with the user's own configuration and keys.

    Args:
        program: the client and options of the user's, such as ``["ssh", "-F", "config"]``.
        shared: the hosts see this directory under the same path; else it is copied.
        env: the launcher's environment.
    """

    name = "ssh"

    def __init__(self, program: Sequence[str] = ("ssh",), shared: bool = False, env: Mapping[str, str] | None = None):
        self._program, self._shared = list(program), shared
        self._path = python_path((os.environ if env is None else env).get("PYTHONPATH", ""))
        if shutil.which(self._program[0]) is None:
            raise ConfigError(f"there is no {self._program[0]!r} on this machine: install OpenSSH's client")

    def _ssh(self, host: Host) -> list[str]:
        options = [word for option in OPTIONS for word in ("-o", option)]
        return [*self._program, "-T", *options, *(["-p", str(host.port)] if host.port else [])]

    def _at(self, host: Host, command: str) -> list[str]:
        return [*self._ssh(host), host.login, command]

    def directory(self, host: Host) -> str:
        """Of the job there; relative ones are meant from the user's home."""
        return host.dir.removeprefix("~/") or (os.getcwd() if self._shared else job_directory())

    def prepare(self, hosts: Sequence[Host], stopped: Callable[[], bool]) -> None:
        """Copy this directory to all of them at once, by rsync where both sides have it, else by tar."""
        with ThreadPoolExecutor(max_workers=16) as pool:
            said = list(pool.map(lambda host: self._prepare(host, stopped), hosts))
        wrong = [text for text in said if text]
        if wrong and not stopped():
            raise ConfigError("; ".join(wrong))

    def _prepare(self, host: Host, stopped: Callable[[], bool]) -> str:
        """What is wrong, if anything is."""
        place = shlex.quote(self.directory(host))
        make = f"cd {place}" if self._shared else f"mkdir -p {place} && cd {place}"
        python = shlex.quote(_python(host))
        has = "; ".join(
            f"if command -v {p} >/dev/null; then echo {n}; fi" for n, p in (("python", python), ("rsync",) * 2)
        )
        got = _call(self._at(host, f"{make} && {{ {has}; }}"), stopped)
        if got.returncode == LOST:
            why = f"{_last(got.stderr)}. Does `ssh {host.login}` work, without a password?"
            return f"host {host} cannot be reached by ssh: {why}"
        if got.returncode:
            return f"host {host}: the job's directory {self.directory(host)!r} cannot be used: {_last(got.stderr)}"
        if b"python" not in got.stdout.split():
            what = "name the Python that has shoal with python= in the hosts file"
            return f"host {host} has no program {_python(host)!r}: {what}"
        if self._shared:
            return ""
        copy = self._rsync if b"rsync" in got.stdout.split() and shutil.which("rsync") else self._tar
        got = copy(host, stopped)
        return f"host {host}: this directory could not be copied there: {_last(got.stderr)}" if got.returncode else ""

    def _rsync(self, host: Host, stopped: Callable[[], bool]) -> "subprocess.CompletedProcess[bytes]":
        left_out = [f"--exclude={name}" for name in _left_out()]
        target = f"{host.login}:{self.directory(host)}/"
        return _call(["rsync", "-az", "-s", *left_out, "-e", shlex.join(self._ssh(host)), "./", target], stopped)

    def _tar(self, host: Host, stopped: Callable[[], bool]) -> "subprocess.CompletedProcess[bytes]":
        left_out = [f"--exclude={name}" for name in _left_out()]
        packed = subprocess.Popen(
            ["tar", "-czf", "-", *left_out, "."], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert packed.stdout is not None
        try:
            unpack = f"tar -xzf - -C {shlex.quote(self.directory(host))}"
            return _call(self._at(host, unpack), stopped, packed.stdout.fileno())
        finally:
            packed.stdout.close()
            packed.kill()
            packed.wait()

    def command(self, host: Host) -> list[str]:
        """Of ``shoal attend`` in the job's directory; PYTHONPATH goes along, because it is needed before any order."""
        path = f"PYTHONPATH={shlex.quote(self._path)} " if self._path else ""
        start = f"exec env {path}{shlex.quote(_python(host))} -m shoal attend"
        return self._at(host, f"cd {shlex.quote(self.directory(host))} && {start}")

    def address(self, host: Host) -> str:
        """What the user's ssh configuration makes of its name."""
        got = subprocess.run([*self._ssh(host), "-G", host.login], capture_output=True, stdin=subprocess.DEVNULL)
        names = [line.split()[1] for line in got.stdout.decode().splitlines() if line.startswith("hostname ")]
        return names[0] if names and not got.returncode else host.name

    def lost(self, code: int) -> bool:
        """ssh says so."""
        return code == LOST


class Srun:
    """Steps of the Slurm job in which the launcher runs; the nodes share the directory."""

    name = "srun"

    def prepare(self, hosts: Sequence[Host], stopped: Callable[[], bool]) -> None:
        """They are ours already."""
        if shutil.which("srun") is None:
            raise ConfigError("there is no srun on this machine: --on slurm is for a node of a Slurm job")

    def command(self, host: Host) -> list[str]:
        """One step on that node, which shares its cores with the others of this run."""
        place = ["--nodes=1", "--ntasks=1", f"--nodelist={host.name}", f"--chdir={os.getcwd()}"]
        how = ["--overlap", "--unbuffered", "--quiet", "--export=ALL"]
        return ["srun", *place, *how, _python(host), "-m", "shoal", "attend"]

    def address(self, host: Host) -> str:
        """What Slurm itself calls the node in the network, which need not be its name."""
        with suppress(OSError, subprocess.TimeoutExpired):
            asked = ["scontrol", "--oneliner", "show", "node", host.name]
            got = subprocess.run(asked, capture_output=True, stdin=subprocess.DEVNULL, timeout=ASK_S)
            named = [w for w in got.stdout.decode("utf-8", "replace").split() if w.startswith("NodeAddr=")]
            if named and not got.returncode:
                return named[0].removeprefix("NodeAddr=")
        return host.name

    def lost(self, code: int) -> bool:
        """srun does not tell a lost node from a failed process."""
        return False


def job_directory(here: Path | None = None) -> str:
    """Where this directory is copied to, from the home there: one place for each directory of each machine.

    >>> job_directory(Path("/home/ada/digits")).startswith(".shoal/jobs/digits-")
    True
    """
    here = here or Path.cwd()
    mark = hashlib.blake2b(f"{socket.gethostname()}:{here}".encode(), digest_size=4).hexdigest()
    return f".shoal/jobs/{here.name or 'root'}-{mark}"


def python_path(text: str, here: Path | None = None) -> str:
    """PYTHONPATH for the other end, which starts in the job's directory: what is inside this one is meant from there.

    >>> python_path("/a/job/lib:/opt/more", Path("/a/job"))
    'lib:/opt/more'
    """
    here = here or Path.cwd()
    parts = [Path(part) for part in text.split(os.pathsep) if part]
    return os.pathsep.join(str(p.relative_to(here)) if p.is_relative_to(here) else str(p) for p in parts)


def _python(host: Host) -> str:
    return host.python or sys.executable


def _left_out() -> Iterable[str]:
    named = Path(IGNORED).read_text().splitlines() if Path(IGNORED).is_file() else []
    return [*LEFT_OUT, *(line.strip() for line in named if line.strip() and not line.startswith("#"))]


def _last(text: bytes) -> str:
    """What a program said last."""
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it did not say why"


def _call(
    command: Sequence[str], stopped: Callable[[], bool], stdin: int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program that says little, unless the launcher is told to stop."""
    process = subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + COPY_S
    while True:
        try:
            out, err = process.communicate(timeout=PERIOD_S)
            return subprocess.CompletedProcess(command, process.returncode, out, err)
        except subprocess.TimeoutExpired:
            if stopped() or time.monotonic() > deadline:
                process.kill()
