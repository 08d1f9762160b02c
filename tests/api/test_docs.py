"""The pages tell the truth: their Python blocks run, their commands are understood, their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shoal import cli, optim
from shoal.commands.launchers import LAUNCHERS
from shoal.kvstore.wire.messages import Snapshot
from shoal.lab.report import final_report
from shoal.scheduler.job import Outcome
from shoal.scheduler.local import LocalLauncher
from shoal.worker import strategies
from tests.patience import RUN_S

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/*.md")))]


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a page in one language, in their order; "" is that of commands and what they print."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [m[2] for m in FENCED.finditer(text) if m[1] == language]
    assert found, f"{page} has no block of {language or 'commands'}: has it moved?"
    return found


def script_of(page: str, folder: Path) -> Path:
    """All Python blocks of a page as one script, since later ones go on from earlier ones."""
    path = folder / f"page_{Path(page).stem}.py"  # a script called onnx.py would hide the package
    path.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    return path


def run(folder: Path, *args: str) -> str:
    """What a Python process says that runs in ``folder``, with warnings as errors."""
    got = subprocess.run(
        [sys.executable, "-W", "error", *args], cwd=folder, capture_output=True, text=True, timeout=RUN_S
    )
    assert got.returncode == 0, got.stdout + got.stderr
    return got.stdout + got.stderr


def shortened(script: Path) -> Path:
    """The README's script with 2 of its epochs."""
    text = script.read_text(encoding="utf-8")
    assert text.count("range(10)") == 1
    script.write_text(text.replace("range(10)", "range(2)"), encoding="utf-8")
    return script


def test_the_script_of_the_readme_learns_alone(tmp_path: Path) -> None:
    out = run(tmp_path, str(shortened(script_of("README.md", tmp_path))))
    assert float(out.split()[-1]) > 0.7 and out.startswith("epoch 1: accuracy ")


@pytest.mark.net
def test_the_script_of_the_readme_learns_in_a_cluster(tmp_path: Path) -> None:
    script = shortened(script_of("README.md", tmp_path))
    out = run(tmp_path, "-m", "shoal", "run", "-n", "2", "-s", "2", "--report", "out.json", str(script))
    assert "[worker 0] epoch 2: accuracy " in out and "balanced" in out
    assert (tmp_path / "out.json").is_file()


def test_the_page_on_models_runs(tmp_path: Path) -> None:
    out = run(tmp_path, str(script_of("docs/models.md", tmp_path)))
    assert "10,442 learned" in out and "return %" in out
    assert {p.name for p in tmp_path.iterdir()} >= {"net.safetensors", "net-symbol.json"}


def test_the_page_on_gradients_runs(tmp_path: Path) -> None:
    assert run(tmp_path, str(script_of("docs/autograd.md", tmp_path))) == ""


def test_the_page_on_numpy_runs(tmp_path: Path) -> None:
    assert run(tmp_path, str(script_of("docs/numpy.md", tmp_path))) == ""


def test_the_page_on_images_runs(tmp_path: Path) -> None:
    assert run(tmp_path, str(script_of("docs/vision.md", tmp_path))) == ""


def test_the_page_on_profiles_runs(tmp_path: Path) -> None:
    out = run(tmp_path, str(script_of("docs/profiler.md", tmp_path)))
    assert "fully_connected" in out and "hybrid" in out and (tmp_path / "profile.json").is_file()


def test_the_page_on_onnx_runs(tmp_path: Path) -> None:
    run(tmp_path, str(script_of("docs/onnx.md", tmp_path)))
    assert (tmp_path / "model.onnx").is_file()


def test_the_page_on_optimizers_runs_and_names_every_rule(tmp_path: Path) -> None:
    assert run(tmp_path, str(script_of("docs/optimizers.md", tmp_path))) == ""
    named = re.findall(
        r"`(\w+)`", (ROOT / "docs/optimizers.md").read_text(encoding="utf-8").partition("**All rules**")[0]
    )
    rules = {n.lower() for n in optim.__all__ if isinstance(getattr(optim, n), type)}
    assert rules - {"optimizer", "optimizerspec", "state"} <= set(named)


def test_the_page_on_stores_runs(tmp_path: Path) -> None:
    script = script_of("docs/stores.md", tmp_path)
    with script.open("a", encoding="utf-8") as f:
        f.write("print(weights[0], kv.type, issubclass(TorchStore, shoal.kv.KVStore), TorchStore.type)\n")
    assert run(tmp_path, str(script)) == "-20.0 hogwild True torch\n"


def test_the_page_on_control_runs(tmp_path: Path) -> None:
    script = script_of("docs/control.md", tmp_path)
    with script.open("a", encoding="utf-8") as f:
        f.write("print(round(sum(kv.call('sum-of-squares')), 5))\n")
    assert run(tmp_path, str(script)) == "1.0\n"


def test_the_page_on_strategies_runs_and_names_every_strategy(tmp_path: Path) -> None:
    script = script_of("docs/strategies.md", tmp_path)
    with script.open("a", encoding="utf-8") as f:
        f.write("from shoal.worker.strategies import parse\nprint(parse('halfway'))\n")
    assert run(tmp_path, str(script)) == "diloco:h=50,lr=0.7,mu=0.9,reset=false\nhalfway:h=8\n"
    text = (ROOT / "docs/strategies.md").read_text(encoding="utf-8")
    assert [n for n in strategies.names() if f"`{n}" not in text] == []


@pytest.mark.parametrize("name", ["local", "auto"])
def test_the_page_on_the_store_runs_alone_with_another_store(name: str, tmp_path: Path) -> None:
    script = script_of("docs/kvstore.md", tmp_path)
    text = script.read_text(encoding="utf-8")
    assert text.count('create("dist_sync")') == 1
    script.write_text(
        text.replace('create("dist_sync")', f"create({name!r})") + "print(value.sum())\n", encoding="utf-8"
    )
    assert run(tmp_path, str(script)) == "6.0\n"


@pytest.mark.net
def test_the_page_on_the_store_runs_in_a_cluster(tmp_path: Path) -> None:
    script = script_of("docs/kvstore.md", tmp_path)
    with script.open("a", encoding="utf-8") as f:
        f.write("print(value.sum())\n")
    out = run(tmp_path, "-m", "shoal", "run", "-n", "2", "--no-progress", str(script))
    assert sorted(out.splitlines()) == ["[worker 0] 6.0", "[worker 1] 6.0"]


def test_the_page_on_mathematics_runs(tmp_path: Path) -> None:
    script = script_of("docs/math.md", tmp_path)
    with script.open("a", encoding="utf-8") as f:
        f.write("print(x.grad.shape, smooth.shape, nodes.tolist())\n")
    assert run(tmp_path, str(script)) == "(2, 2) (64,) [[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]\n"


def test_the_operator_of_the_page_on_operators_can_be_declared(tmp_path: Path) -> None:
    script = tmp_path / "operator_page.py"
    needs = "from typing import Any\nfrom shoal import np\nfrom shoal.ops import specs\n"
    needs += "from shoal.ops.registry import Array, op\n"
    script.write_text(needs + blocks("docs/operators.md", "python")[0] + "print(softsign(np.array([1.0])).item())\n")
    assert run(tmp_path, str(script)) == "0.5\n"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#\s]+)[^)]*\)", text)
    missing = [t for t in targets if not ((ROOT / page).parent / t).exists()]
    assert missing == []


def commands() -> list[str]:
    """The commands of the README and the page on running; an ellipsis stands for the others' options."""
    lines = [line for page in ("README.md", "docs/running.md") for text in blocks(page) for line in text.splitlines()]
    found = [line.partition("#")[0].strip() for line in lines if re.match(r"shoal (run|doctor)\b(?!:)", line)]
    assert len(found) >= 5
    return [f"{line.replace('...', '')} train.py" if "..." in line else line for line in found]


@pytest.mark.parametrize("line", commands())
def test_every_command_is_understood(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shoal.doctor.doctor", lambda **options: 7)
    monkeypatch.setattr("shoal.scheduler.local.LocalLauncher.launch", lambda self, job: Outcome(7, "not started", None))
    for elsewhere in set(LAUNCHERS) - {"local"}:
        monkeypatch.setitem(LAUNCHERS, elsewhere, lambda o, line, seen, chaos: LocalLauncher(line, seen))
    assert cli.main(shlex.split(line)[1:]) == 7


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [p.name[:5] for p in pages] == [f"{n:04d}-" for n in range(1, len(pages) + 1)]
    for n, page in enumerate(pages, 1):
        assert page.read_text(encoding="utf-8").startswith(f"# {n}. "), page.name


def test_the_page_on_running_lists_every_key_of_the_report() -> None:
    empty = Snapshot(phase="finished", cluster="c", mode="bsp", reason="", culprit="", missing=(), nodes=())
    table = (
        (ROOT / "docs" / "running.md").read_text(encoding="utf-8").partition("## The report")[2].partition("\n## ")[0]
    )
    named = set(re.findall(r"`(\w+)`", table))
    assert set(final_report(empty)) - named == set()
