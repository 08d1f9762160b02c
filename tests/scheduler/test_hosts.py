"""Hosts files, and who is started where."""

import pytest

from shoal.errors import ConfigError
from shoal.scheduler.hosts import Host, assign, parse_hosts, read_hosts


def test_a_line_says_all_there_is_to_say_about_a_host() -> None:
    text = "# mine\n\nada@node-1.example:2222 slots=4 servers=1 python=/opt/py dir=~/job address=10.0.0.3  # large\nb\n"
    first, second = parse_hosts(text)
    assert first == Host("node-1.example", "ada", 2222, 4, 1, "/opt/py", "~/job", "10.0.0.3")
    assert second == Host("b") and first.login == "ada@node-1.example" and str(first) == "node-1.example:2222"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host; expected lines such as"),
        ("# nothing\n", "names no host"),
        ("a slots", "h:1: expected NAME=VALUE with a name of slots"),
        ("a slots=", "expected NAME=VALUE"),
        ("a\nb cores=2", "h:2: expected NAME=VALUE .* got 'cores=2'"),
        ("a slots=x", "slots is a number of processes"),
        ("a slots=1 slots=2", "slots is given twice"),
        ("a:99999", "expected a port, 1 to 65535, got 99999"),
        ("-oProxyCommand=touch", "expected .user@.host"),
        ("a;b", "expected .user@.host"),
        ("a\na slots=2", "h:2: a is there already"),
    ],
)
def test_a_line_that_is_not_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_hosts(text, "h")


def test_a_hosts_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"hosts file 'nowhere.txt' cannot be read: No such file"):
        read_hosts("nowhere.txt")


def placed(text: str, *counts: int) -> dict[str, str]:
    return {name: str(host) for name, host in assign(parse_hosts(text), *counts).items()}


def test_workers_fill_the_slots_in_order_and_servers_are_spread() -> None:
    assert placed("a slots=2\nb slots=2", 3, 3) == {
        "server 0": "a",
        "server 1": "b",
        "server 2": "a",
        "worker 0": "a",
        "worker 1": "a",
        "worker 2": "b",
    }


def test_a_replica_is_on_another_host_than_its_server() -> None:
    got = placed("a\nb\nc", 1, 3, 1)
    assert all(got[f"server {i}"] != got[f"replica {i}"] for i in range(3))
    assert placed("a", 1, 1, 1)["replica 0"] == "a"  # there is no other one


def test_hosts_can_be_kept_free_of_servers_or_workers() -> None:
    assert placed("a slots=0 servers=2\nb slots=2 servers=0", 2, 2) == {
        "server 0": "a",
        "server 1": "a",
        "worker 0": "b",
        "worker 1": "b",
    }


def test_too_few_slots_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"4 workers need 4 slots, and the hosts have 3 \(a 2, b 1\)"):
        placed("a slots=2\nb", 4, 1)
    with pytest.raises(ConfigError, match="no host is left for server 1: raise servers="):
        placed("a slots=2 servers=1", 2, 2)
