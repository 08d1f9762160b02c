"""``shoal doctor``."""

import json

import pytest

from shoal import doctor as module
from shoal.doctor import Finding, doctor, examine
from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import Snapshot

pytestmark = pytest.mark.net


def finding(name: str, scheduler: str = "") -> Finding:
    return next(f for f in examine(scheduler) if f.name == name)


def test_everything_is_looked_at() -> None:
    names = [f.name for f in examine()]
    machine = ["versions", "python", "cores", "memory", "blas", "native"]
    assert names == [*machine, "ports", "shared memory", "open files", "gpu"]


def test_versions_are_those_of_what_is_installed() -> None:
    text = finding("versions").text
    assert all(f"{name} " in text for name in ("shoal", "numpy", "pyzmq", "libzmq", "msgpack"))


def test_json_is_for_machines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda scheduler, access: [Finding("a", "ok", "fine")])
    assert doctor(as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "state": "ok", "text": "fine", "advice": ""}]


def test_something_broken_is_an_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda scheduler, access: [Finding("a", "broken", "no", "do this")])
    assert doctor() == 1
    assert "do this" in capsys.readouterr().out


def test_a_check_that_fails_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def _gpu() -> Finding:
        raise RuntimeError("driver fell off")

    monkeypatch.setattr(module, "_gpu", _gpu)
    assert finding("gpu") == Finding(
        "gpu",
        "broken",
        "RuntimeError: driver fell off",
        "Reinstall shoal in a fresh virtual environment, or report this.",
    )


@pytest.mark.parametrize(
    ("prefix", "arguments", "state"),
    [
        ("/root/.pyenv", "'--enable-shared'", "note"),
        ("/usr/local", "'--enable-optimizations'", "ok"),
        ("/usr", "", "ok"),
    ],
)
def test_an_interpreter_that_was_built_plainly_is_told(
    prefix: str, arguments: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.sys, "base_prefix", prefix)
    monkeypatch.setattr(module.sysconfig, "get_config_var", {"CONFIG_ARGS": arguments}.get)
    found = finding("python")
    assert found.state == state and ("--enable-optimizations" in found.advice) == (state == "note")


def test_without_compiled_kernels_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_NATIVE", "0")
    found = finding("native")
    assert found.state == "note" and "SHOAL_NATIVE" in found.text


def test_memory_can_be_shared_here_or_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    here = finding("shared memory")
    assert here.state == "ok" or here.advice
    monkeypatch.setenv("SHOAL_SHM", "0")
    assert "SHOAL_SHM" in finding("shared memory").text


def test_a_machine_without_room_for_shared_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shoal.kvstore.wire.shm.Region.__init__", full)
    found = finding("shared memory")
    assert found.state == "note" and "No space left" in found.text


def test_a_machine_that_cannot_listen_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, host: str, port: int = 0) -> int:
        raise ConfigError("cannot listen")

    monkeypatch.setattr("shoal.kvstore.wire.transport.Transport.bind", refuse)
    assert finding("ports").state == "broken"


def test_a_scheduler_that_does_not_answer_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.scheduler.watch.snapshot_of", lambda address, access: None)
    found = finding("scheduler", "127.0.0.1:9091")
    assert found.state == "broken" and "none answers at 127.0.0.1:9091 (asked from 127.0.0.1)" in found.text


def test_a_scheduler_that_answers_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Snapshot(
        phase="gathering", cluster="c1", mode="", reason="", culprit="", missing=("worker 0",), nodes=()
    )
    monkeypatch.setattr("shoal.scheduler.watch.snapshot_of", lambda address, access: snapshot)
    found = finding("scheduler", "127.0.0.1:9091")
    assert found.state == "ok" and "run c1" in found.text and "waiting for worker 0" in found.text
