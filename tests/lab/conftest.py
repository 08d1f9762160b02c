"""What tests of the simulator's command share."""

from collections.abc import Callable

import pytest

from shoal import cli


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs ``shoal simulate`` in this process: exit code, stdout, stderr."""
    for name in ("WORKERS", "SERVERS", "SEED"):
        monkeypatch.delenv(f"SHOAL_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*args: str) -> tuple[int, str, str]:
        code = cli.main(["simulate", *args])
        out, err = capsys.readouterr()
        return code, out, err

    return call
