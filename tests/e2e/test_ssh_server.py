"""``shoal run --on ssh`` with OpenSSH's own server, on hosts that are network namespaces."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.test_launcher import MARK, Crowd
from tests.e2e.test_remote_run import project, steady
from tests.netlab import Lab, why_not
from tests.patience import RUN_S, until_run

SSHD = "/usr/sbin/sshd"
SESSION = "sshd: root"
"""How the command line of a session's ssh server begins."""

pytestmark = [
    pytest.mark.net,
    pytest.mark.netns,
    pytest.mark.skipif(not os.path.exists(SSHD), reason=f"there is no {SSHD} (Debian package openssh-server)"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh (Debian package openssh-client)"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]

SERVER = """
ListenAddress 0.0.0.0
Port 22
HostKey {root}/host
AuthorizedKeysFile {root}/user.pub
PidFile none
StrictModes no
PermitRootLogin prohibit-password
UsePAM no
PasswordAuthentication no
ClientAliveInterval 5
ClientAliveCountMax 2
"""

CLIENT = """
Host *
  IdentityFile {root}/user
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile {root}/known
  LogLevel ERROR
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A launcher's machine and two hosts, each with an ssh server."""
    root = tmp_path / "ssh"
    root.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True)
    (root / "sshd_config").write_text(SERVER.format(root=root))
    (root / "ssh_config").write_text(CLIENT.format(root=root))
    os.makedirs("/run/sshd", exist_ok=True)
    with Lab(["here", "h1", "h2"]) as lab:
        for host in ("h1", "h2"):
            lab.popen(host, [SSHD, "-D", "-e", "-f", str(root / "sshd_config")], stderr=subprocess.DEVNULL)
        client = ["ssh", "-F", str(root / "ssh_config"), "-o", "BatchMode=yes"]
        for host in ("h1", "h2"):
            until_run(lambda h=host: ask(lab, [*client, h, "true"]) == 0)  # type: ignore[misc]
        yield lab


def ask(lab: Lab, command: list[str]) -> int:
    process = lab.popen("here", command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process.wait(RUN_S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = project(tmp_path / "digits")
    jobs = {host: tmp_path / host for host in ("h1", "h2")}
    (place / "hosts.txt").write_text("".join(f"root@{h} dir={d}\n" for h, d in jobs.items()))
    monkeypatch.chdir(place)
    return place


def start(lab: Lab, tmp_path: Path, mark: str, *args: str) -> "subprocess.Popen[str]":
    env = {**os.environ, MARK: mark, "SHOAL_SSH": f"ssh -F {tmp_path}/ssh/ssh_config"}
    command = [sys.executable, "-m", "shoal", "run", "--no-progress", "--on", "ssh:hosts.txt", "-n", "2", "--env", MARK]
    return lab.popen("here", [*command, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_run_over_real_ssh_trains_on_both_hosts_and_leaves_nobody(lab: Lab, folder: Path, tmp_path: Path) -> None:
    crowd = Crowd()
    process = start(lab, tmp_path, crowd.mark, "-s", "2", "train.py")
    out, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, out
    assert "[worker 0] tone None False hello there" in out and "[worker 1] tone None False hello there" in out
    assert (tmp_path / "h1" / "train.py").exists() and (tmp_path / "h2" / "train.py").exists()
    until_run(crowd.gone)


def test_a_launcher_that_is_killed_takes_what_it_started_over_real_ssh_with_it(
    lab: Lab, folder: Path, tmp_path: Path
) -> None:
    crowd = Crowd()
    process = start(lab, tmp_path, crowd.mark, "wait.py")
    try:
        until_run(lambda: len(crowd.pids("worker")) == 2)
        process.kill()
        until_run(crowd.gone)
    finally:
        crowd.end()


def kill_all(lab: Lab, host: str, program: str = "") -> None:
    """Every process of the host dies, the ssh server among them; or only those whose command line begins so."""
    pids = subprocess.run(["ip", "netns", "pids", lab.namespace(host)], capture_output=True, text=True).stdout.split()
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(program.encode()):
                os.kill(int(pid), signal.SIGKILL)


def lost_under_way(
    lab: Lab, folder: Path, tmp_path: Path, hosts: str, lose: Callable[[], None], *args: str
) -> tuple[int, str]:
    """Exit code and output of a run whose host h2 is lost while it trains."""
    sign = steady(folder)
    (folder / "hosts.txt").write_text(hosts.format(h1=f"root@h1 dir={tmp_path}/h1", h2=f"root@h2 dir={tmp_path}/h2"))
    crowd = Crowd()
    process = start(lab, tmp_path, crowd.mark, "-s", "1", "--lease-s", "5", *args, "steady.py")
    try:
        assert process.stdout is not None
        out = ""
        while "well under way" not in out and (line := process.stdout.readline()):
            out += line
        lose()
        sign.touch()
        rest, _ = process.communicate(timeout=RUN_S)
        return process.returncode, out + rest
    finally:
        crowd.end()


@pytest.mark.parametrize(
    "lose", [lambda lab: lab.cut("h2"), lambda lab: kill_all(lab, "h2", SESSION)], ids=["cut", "hangs-up"]
)
def test_a_worker_that_is_lost_goes_on_elsewhere(
    lab: Lab, folder: Path, tmp_path: Path, lose: Callable[[Lab], None]
) -> None:
    """The host is cut off; or the connection alone is lost: the scheduler still hears the worker, and must not be told
    that it has failed."""
    code, out = lost_under_way(lab, folder, tmp_path, "{h1} servers=1\n{h2} servers=0\n", lambda: lose(lab))
    assert code == 0, out
    assert "worker 1 (h2, pid " in out and "has lost its connection" in out and "it is started again" in out, out
    assert out.count("[worker 0] done") == out.count("[worker 1] done") == 1, out


def test_a_server_whose_connection_alone_is_lost_comes_back_from_its_snapshots(
    lab: Lab, folder: Path, tmp_path: Path
) -> None:
    code, out = lost_under_way(
        lab,
        folder,
        tmp_path,
        "{h1} slots=2 servers=0\n{h2} slots=0 servers=1\n",
        lambda: kill_all(lab, "h2", SESSION),
        *("--run-dir", "run", "--snapshot-every", "1s"),
    )
    assert code == 0, out
    assert "server 0 (h2, pid " in out and "it is started again, from its newest snapshot" in out, out
    assert out.count("[worker 0] done") == out.count("[worker 1] done") == 1, out


def test_a_run_whose_only_server_was_on_a_host_that_is_lost_ends_and_names_it(
    lab: Lab, folder: Path, tmp_path: Path
) -> None:
    code, out = lost_under_way(
        lab, folder, tmp_path, "{h1} slots=2 servers=0\n{h2} slots=0 servers=1\n", lambda: kill_all(lab, "h2")
    )
    assert code == 1 and "the run has failed: server 0 (h2, pid " in out and "has lost its connection" in out, out
