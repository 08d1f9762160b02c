"""The other systems: what each needs, and how it is started. Each has an environment of its own, made on demand."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kv_control import PEERS as FOLDER

__all__ = ["PEERS", "Peer", "Unavailable", "prepare"]

INSTALL_S = 1800.0


class Unavailable(Exception):
    """A peer cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another system.

    Args:
        script: its driver, in ``peers/``.
        requirements: what pip installs for it.
        newest: the newest Python it runs on.
        topologies: those it can do; all if empty.
        restless: it is never quite idle, so it is stopped while others have their turn.
        apart: it is not idle, and cannot be stopped: it has a group of its own, with ours.
        build: makes what pip cannot; returns variables for its environment.
        note: what a reader must know.
    """

    script: str
    requirements: tuple[str, ...]
    newest: tuple[int, int] = (3, 13)
    topologies: tuple[str, ...] = ()
    restless: bool = False
    apart: bool = False
    build: Callable[[Path], dict[str, str]] = lambda home: {}
    note: str = ""


def prepare(name: str, cache: Path, given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The Python of a peer's environment, and variables for it; makes the environment if it is not there yet.

    Args:
        cache: where environments are kept.
        given: Pythons that the user has, by peer.
    Raises:
        Unavailable: says which step failed, and how.
    """
    peer, home = PEERS[name], cache / name
    home.mkdir(parents=True, exist_ok=True)
    if name in given:
        return given[name], peer.build(home)
    python, done = home / "venv" / "bin" / "python", home / "installed.txt"
    interpreter = os.path.realpath(_interpreter(peer))
    wanted = "\n".join([*peer.requirements, interpreter])  # another interpreter makes another environment
    if not done.is_file() or done.read_text() != wanted:
        print(f"installing {name} ({', '.join(peer.requirements)}) into {home}", file=sys.stderr, flush=True)
        run([interpreter, "-m", "venv", "--clear", str(home / "venv")])
        run([str(python), "-m", "pip", "install", "-q", *peer.requirements])
        done.write_text(wanted)
    return str(python), peer.build(home)


def run(command: list[str], **options: object) -> None:
    """Run to the end; its last words are the reason if it fails."""
    try:
        got = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, **options)  # type: ignore[call-overload]  # options of subprocess.run
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable(f"{Path(command[0]).name}: {e}") from e
    if got.returncode:
        said = (got.stderr or got.stdout).strip().splitlines()
        raise Unavailable(f"`{' '.join(command[:6])} ...` failed: {' | '.join(said[-3:])[-500:]}")


def _interpreter(peer: Peer) -> str:
    """A Python that is not too new for the peer."""
    if sys.version_info[:2] <= peer.newest:
        return sys.executable
    name = f"python{peer.newest[0]}.{peer.newest[1]}"
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"it needs Python {peer.newest[0]}.{peer.newest[1]} or older, and there is no {name}")
    return found


PSLITE = "byteps==0.2.5.post15"
"""Whose source distribution holds ps-lite (ZeroMQ, C++)."""


def build_pslite(home: Path) -> dict[str, str]:
    """Compile ps-lite and the driver into one library."""
    library = home / "libpslite.so"
    driver = FOLDER / "pslite.cc"
    if not library.is_file() or library.stat().st_mtime < driver.stat().st_mtime:
        source = _pslite_source(home)
        files = [str(source / "src" / f"{f}.cc") for f in ("customer", "postoffice", "van")]
        flags = [
            "-std=c++14",
            "-O3",
            "-march=native",
            "-fPIC",
            "-shared",
            "-w",
            f"-I{source}/include",
            f"-I{source}/src",
        ]
        run([shutil.which("g++") or "g++", *flags, str(driver), *files, "-lzmq", "-lpthread", "-o", str(library)])
    return {"KVBENCH_PSLITE": str(library)}


def _pslite_source(home: Path) -> Path:
    source = home / "ps-lite"
    if source.is_dir():
        return source
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(home)]
    run([*pip, "--no-build-isolation", PSLITE])
    with tarfile.open(next(home.glob("byteps*.tar.gz"))) as archive:
        inside = [m for m in archive.getmembers() if "/3rdparty/ps-lite/" in m.name]
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(home / "unpacked", members=inside)
    found = next((home / "unpacked").glob("*/3rdparty/ps-lite"))
    _let_it_sleep(found / "src" / "zmq_van.h")
    found.rename(source)
    return source


def _let_it_sleep(path: Path) -> None:
    """BytePS's copy spins in its receiving threads, for machines with cores to spare; ps-lite itself sleeps there.

    With spinning it takes 5 ms for 1 KB on two cores, and slows everybody else; so it is made to sleep, too.
    """
    before, mark, body = path.read_text().partition("CallZmqRecvThread(void* socket) {")
    descriptor = (
        "\n    int wake; size_t wake_size = sizeof(wake);\n    zmq_getsockopt(socket, ZMQ_FD, &wake, &wake_size);"
    )
    body = body.replace("std::lock_guard", "std::unique_lock", 1)
    sleep = r"\1 lk.unlock(); struct pollfd p = {wake, POLLIN, 0}; poll(&p, 1, 1);"
    body, changed = re.subn(r"(errno == EAGAIN\) \{)[^\n]*", sleep, body, count=1)
    if not mark or changed != 1:
        raise Unavailable(f"{path.name} is not the one that is known: its receiving thread cannot be made to sleep")
    path.write_text("#include <poll.h>\n" + before + mark + descriptor + body)


PEERS: dict[str, Peer] = {
    "mxnet": Peer("mxnet_kv.py", ("mxnet==1.9.1", "numpy<1.24"), newest=(3, 11), note="dist_sync KVStore"),
    "torch_rpc": Peer("torch_rpc.py", ("torch==2.13.0", "numpy"), restless=True, note="synchronous; TensorPipe"),
    "torch_rpc_tcp": Peer(
        "torch_rpc.py",
        ("torch==2.13.0", "numpy"),
        restless=True,
        build=lambda home: {"KVBENCH_SOCKETS": "1"},
        note="synchronous; TensorPipe over sockets alone",
    ),
    "gloo": Peer(
        "torch_gloo.py", ("torch==2.13.0", "numpy"), topologies=("2x2",), note="all-reduce of two; no servers"
    ),
    "pslite": Peer("pslite.py", ("numpy",), restless=True, build=build_pslite, note="asynchronous; C++"),
    "ray": Peer("ray_actors.py", ("ray==2.60.0", "numpy"), apart=True, note="asynchronous; actors"),
}
