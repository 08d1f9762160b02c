"""Addresses that cannot work are refused with the reason."""

import logging
import socket

import pytest

from shoal import cli
from shoal.doctor import examine
from shoal.errors import ConfigError, MembershipError
from shoal.scheduler.address import address_towards, check_host, parse_address


def unknown(host: str, port: int) -> str:
    raise OSError("Name or service not known")


@pytest.mark.parametrize("text", ["[::1]:9091", "::1:9091", "fe80::1%eth0:9091"])
def test_shoal_speaks_ipv4_and_says_so(text: str) -> None:
    with pytest.raises(ConfigError, match="shoal speaks IPv4"):
        parse_address(text)


@pytest.mark.parametrize("text", ["tcp://10.0.0.1:9091", "http://scheduler:9091"])
def test_an_address_is_no_url(text: str) -> None:
    with pytest.raises(ConfigError, match="without tcp:// or http:// before it"):
        parse_address(text)


def test_names_and_addresses_are_hosts() -> None:
    assert [check_host(h) for h in ("scheduler", "10.0.0.1", "a.example.org", "0.0.0.0")]


def test_a_name_that_is_not_known_yet_is_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shoal.scheduler.address._route", unknown)
    monkeypatch.setattr("shoal.scheduler.address.RESOLVE_RETRY_S", 0.01)
    with caplog.at_level(logging.WARNING), pytest.raises(MembershipError, match="Is the name right"):
        address_towards("nowhere.invalid:9091", timeout_s=0.1)
    assert [r.getMessage() for r in caplog.records] == [
        "no way to nowhere.invalid:9091 yet (Name or service not known); trying for 0.1 s"
    ]


def test_a_name_that_has_an_ipv6_address_only_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_six(host: str, port: object, family: int) -> list[object]:
        assert family == socket.AF_INET6
        return [object()]

    monkeypatch.setattr("shoal.scheduler.address._route", unknown)
    monkeypatch.setattr("socket.getaddrinfo", only_six)
    with pytest.raises(MembershipError, match="an IPv6 address only, and shoal speaks IPv4"):
        address_towards("six.example.org:9091", timeout_s=0.01)


@pytest.mark.parametrize("role", ["scheduler -n 1 -s 1", "server --scheduler 127.0.0.1:9091"])
def test_listening_on_an_ipv6_address_is_refused(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*role.split(), "--host", "::"]) == 2
    assert "shoal speaks IPv4" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["server", "worker"])
def test_a_member_says_that_the_scheduler_has_no_known_name(
    role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shoal.scheduler.address._route", unknown)
    command = [role, "--scheduler", "nowhere.invalid:9091", "--join-timeout-s", "0.01"]
    assert cli.main([*command, *([__file__] if role == "worker" else [])]) == 1
    assert f"shoal {role}: no way to nowhere.invalid:9091 for 0.01 s: Name or service" in capsys.readouterr().err


def test_a_server_cannot_be_reached_at_every_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["server", "--scheduler", "127.0.0.1:9091", "--advertise", "0.0.0.0"]) == 2
    assert "nobody can reach a process at 0.0.0.0" in capsys.readouterr().err


def test_the_doctor_names_its_finding_about_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_way(peer: str, timeout_s: float) -> str:
        raise MembershipError(f"no way to {peer}")

    monkeypatch.setattr("shoal.scheduler.address.address_towards", no_way)
    finding = examine("nowhere.invalid:9091")[-1]
    assert (finding.name, finding.state) == ("scheduler", "broken") and "no way to nowhere" in finding.text
