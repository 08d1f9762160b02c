"""The network laboratory does to packets what it says, and leaves nothing behind."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.netlab import NETNS, Lab, Link, why_not

NO_LAB = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(NO_LAB), reason=NO_LAB)]

SEND = "import socket,sys; s=socket.create_connection((sys.argv[1],7001),float(sys.argv[2])); print(s.recv(2).decode())"
SERVE = """
import socket
listener = socket.create_server(("0.0.0.0", 7001))
print("up", flush=True)
while True:
    listener.accept()[0].sendall(b"ok")
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(["alpha", "beta"], aliases={"service": "beta"}) as lab:
        server = lab.popen("beta", [sys.executable, "-c", SERVE], stdout=subprocess.PIPE)
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        yield lab


def ask(lab: Lab, name: str, patience_s: float) -> "subprocess.CompletedProcess[str]":
    return lab.run("alpha", [sys.executable, "-c", SEND, name, str(patience_s)])


def test_a_host_is_reached_by_its_name_and_by_its_alias(lab: Lab) -> None:
    assert [ask(lab, name, 5).stdout for name in ("beta", "service")] == ["ok\n", "ok\n"]


def test_an_unknown_name_fails_at_once(lab: Lab) -> None:
    assert "gaierror" in ask(lab, "gamma", 5).stderr


def test_a_cut_host_is_silent_until_it_is_healed(lab: Lab) -> None:
    lab.cut("beta")
    assert "TimeoutError" in ask(lab, "beta", 0.2).stderr
    lab.heal()
    assert ask(lab, "beta", 5).stdout == "ok\n"


def test_delay_and_loss_are_felt(lab: Lab) -> None:
    lab.link("alpha", "beta", Link(delay_s=0.3))
    assert "TimeoutError" in ask(lab, "beta", 0.2).stderr  # a round trip takes 0.6 s
    lab.link_all(Link(loss=1.0))
    assert "TimeoutError" in ask(lab, "beta", 0.2).stderr
    assert lab.packets[1] > 0


def test_nothing_is_left_behind() -> None:
    with Lab(["alpha"]) as lab:
        name = lab.namespace("alpha")
        sleeper = lab.popen("alpha", ["sleep", "60"])
        assert (NETNS / name / "hosts").exists()
    assert sleeper.returncode == -9
    assert not (NETNS / name).exists()
    assert name not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
