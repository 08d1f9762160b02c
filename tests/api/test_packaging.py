"""What the wheel will hold, and what the links point at."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOMS = {k: v for k, v in CONFIG["package-dir"].items() if k != "shoal"}


def test_every_package_on_disk_is_listed_and_every_listed_one_is_there() -> None:
    inits = [p.parent.relative_to(ROOT) for p in (ROOT / "shoal").rglob("__init__.py")]
    found = {".".join(p.parts) for p in inits if not any((ROOT / d).is_symlink() for d in (p, *p.parents))}
    for dotted, folder in ROOMS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([dotted, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == set(CONFIG["packages"])


@pytest.mark.parametrize(("dotted", "folder"), ROOMS.items())
def test_the_link_of_a_room_points_at_its_folder(dotted: str, folder: str) -> None:
    link = ROOT / dotted.replace(".", "/")
    assert link.is_symlink() and link.resolve() == (ROOT / folder).resolve()


@pytest.mark.parametrize("folder", ROOMS.values())
def test_a_room_refuses_its_bare_name(folder: str) -> None:
    got = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert got.returncode != 0 and f"import shoal.{folder}, not {folder}" in got.stderr


def test_the_versions_agree() -> None:
    import shoal

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == shoal.__version__
