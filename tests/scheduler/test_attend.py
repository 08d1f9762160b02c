"""The far end of a launcher: what it starts ends with the launcher, and how it ended is told."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.wire.keys import new_keys
from shoal.scheduler.attend import KEY, MARK, Order, exit_code, exit_of, told
from shoal.scheduler.hosts import Host
from shoal.scheduler.reach import job_directory, python_path
from tests.patience import RUN_S

pytestmark = pytest.mark.net

ATTEND = [sys.executable, "-m", "shoal", "attend"]


def order(*args: str, **more: object) -> bytes:
    return Order(list(args), **more).line()  # type: ignore[arg-type]


def start(line: bytes) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(ATTEND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()
    return process


def result(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    """What it says until it ends, while the launcher holds the line."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    said = process.stdout.read(), process.stderr.read()
    process.wait(RUN_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    return said


def who(process: "subprocess.Popen[bytes]") -> int:
    """The id of what it started, as it says first."""
    assert process.stderr is not None
    while (said := told(process.stderr.readline().decode().rstrip("\n"))) is None:
        pass
    return said[0]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


WAITS = ("scheduler", "--workers", "1", "--servers", "1", "--port", "0", "--host", "127.0.0.1")
"""A role that does not end by itself for a while."""


def test_it_runs_the_order_and_passes_output_and_exit_code_on() -> None:
    process = start(order("--version", env={"SHOAL_LOG": "info"}))
    out, err = result(process)
    assert out.startswith(b"shoal ") and err.startswith(MARK.encode()) and process.returncode == 0
    process = start(order("doctor", "--nonsense"))
    _, err = result(process)
    assert process.returncode == 2 and b"--nonsense" in err


def test_the_process_ends_when_the_launcher_hangs_up() -> None:
    process = start(order(*WAITS))
    pid = who(process)
    process.communicate(timeout=RUN_S)
    assert not lives(pid) and process.returncode


def test_the_process_ends_when_the_launcher_falls_silent() -> None:
    process = start(order(*WAITS, silence_s=0.3))
    pid = who(process)
    result(process)
    assert not lives(pid)


def test_a_signal_of_the_launcher_reaches_the_process() -> None:
    process = start(order(*WAITS))
    pid = who(process)
    assert process.stdin is not None
    process.stdin.write(b"not json\n{}\n" + json.dumps({"signal": int(signal.SIGKILL)}).encode() + b"\n")
    process.stdin.flush()
    result(process)
    assert not lives(pid) and exit_of(process.returncode) == -signal.SIGKILL


def test_the_process_ends_when_its_attendant_is_killed() -> None:
    process = start(order(*WAITS))
    pid = who(process)
    process.kill()
    result(process)
    with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as ends:  # unless it has ended already
        assert select.select([ends], [], [], 60)[0]


def test_a_key_lies_in_a_private_file_while_the_process_runs(tmp_path: Path) -> None:
    text = new_keys(str(tmp_path / "k")).read_text()
    process = start(order("keys", "show", KEY, key=text))
    out, err = result(process)
    assert process.returncode == 0 and out.startswith(b"key "), err
    assert KEY not in err.decode()


def test_without_an_order_it_says_whom_it_is_for() -> None:
    got = subprocess.run(ATTEND, input=b"", capture_output=True, timeout=RUN_S)
    assert got.returncode == 2 and b"is for a launcher" in got.stderr
    got = subprocess.run(ATTEND, input=b'{"args": 1, "more": 2}\n', capture_output=True, timeout=RUN_S)
    assert got.returncode == 2 and b"an order of a launcher" in got.stderr


@pytest.mark.parametrize("code", [0, 1, 127, -9, -11, -6])
def test_exit_codes_survive_the_way(code: int) -> None:
    assert exit_of(exit_code(code)) == code


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="expects an order"):
        Order.parse(b"[]")


def test_ordinary_lines_are_not_taken_for_the_attendants() -> None:
    assert told(f'{MARK}{{"pid": 3, "host": "a"}}') == (3, "a")
    assert told(f"{MARK}nonsense") is None and told("{}") is None


def test_directories_of_the_same_name_are_copied_to_different_places() -> None:
    a, b = job_directory(Path("/x/job")), job_directory(Path("/y/job"))
    assert a != b and a.startswith(".shoal/jobs/job-") and not Path(a).is_absolute()
    assert python_path("", Path("/x")) == "" and Host("a").login == "a"
