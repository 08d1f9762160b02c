"""Private folders, and what of them is left by processes that were killed."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shoal.scheduler import folders
from shoal.scheduler.folders import Folder, remove_stale

MAKES_ONE = """
import sys
from shoal.scheduler.folders import Folder
folder = Folder(HOW)
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def owner(place: Path, how: str = '"shoal-run-"', *args: str) -> tuple["subprocess.Popen[str]", Path]:
    """A process with a folder, and that."""
    env = {**os.environ, "TMPDIR": str(place)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-c", MAKES_ONE.replace("HOW", how), *args], env=env, text=True, **pipes
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_private_and_goes_when_it_is_removed(place: Path) -> None:
    folder = Folder("shoal-key-")
    (Path(folder.path) / "cluster.key").write_text("secret")
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    folder.remove()
    folder.remove()
    assert not os.listdir(place)


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_is_in_use_is_not(place: Path) -> None:
    process, path = owner(place)
    try:
        (path / "scheduler").mkdir()
        (path / "scheduler" / "log").write_text("x")
        mine = Folder("shoal-run-")
        assert path.is_dir() and remove_stale() == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        another = Folder("shoal-key-")
        assert not path.exists() and Path(mine.path).is_dir() and Path(another.path).is_dir()
    finally:
        process.kill()
        process.communicate()
    mine.remove()
    another.remove()
    assert not os.listdir(place)


def test_a_folder_that_several_use_stays_until_the_last_of_them_is_gone(place: Path) -> None:
    """The hosts of a run on one machine: the launcher has named the folder."""
    process, shared = owner(place, "path=sys.argv[1]", str(place / "shoal-ray-1"))
    mine = Folder(path=str(shared))
    try:
        assert stat.S_IMODE(shared.stat().st_mode) == 0o700
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert remove_stale(str(place)) == [] and shared.is_dir()
    finally:
        process.kill()
        process.communicate()
    mine.remove()
    assert not os.listdir(place)


def test_what_killed_hosts_of_ray_left_is_removed_by_the_next_beside_it(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever this process itself keeps its temporary files."""
    process, left = owner(place, "path=sys.argv[1]", str(place / "shoal-ray-old"))
    process.kill()
    process.communicate()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("elsewhere")))
    (left / "cluster.key").write_text("secret")
    mine = Folder(path=str(place / "shoal-ray-new"))
    assert os.listdir(place) == ["shoal-ray-new"]
    mine.remove()


def test_folders_without_a_lock_of_other_names_and_links_are_left_alone(place: Path) -> None:
    elsewhere = place / "precious"
    elsewhere.mkdir()
    (elsewhere / folders.USED).touch()
    (place / "shoal-run-old").mkdir()
    (place / "shoal-other").mkdir()
    (place / "shoal-other" / folders.USED).touch()
    (place / "shoal-run-link").symlink_to(elsewhere)
    (place / "shoal-key-file").touch()
    (place / "shoal-run-file").mkdir()
    (place / "shoal-run-file" / folders.USED).symlink_to(elsewhere / folders.USED)
    before = sorted(os.listdir(place))
    assert remove_stale() == [] and sorted(os.listdir(place)) == before


def test_a_folder_that_is_taken_for_stale_before_it_is_locked_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removes it between its making and its lock."""
    made: list[str] = []
    make = tempfile.mkdtemp

    def raced(prefix: str) -> str:
        made.append(make(prefix=prefix))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", raced)
    folder = Folder("shoal-run-")
    assert folder.path == made[1] and Path(folder.path).is_dir()
    folder.remove()
