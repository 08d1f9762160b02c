"""What operators ask of ``xp`` is there on a GPU: read from the text, so also where no test goes."""

import ast
from pathlib import Path

import pytest

import shoal.np
import shoal.npx
import shoal.onnx
from shoal.ops.backend import CPU, Namespace
from shoal.ops.gpu.fake import names
from shoal.ops.gpu.fake.module import known
from shoal.ops.registry import OPS

assert shoal.np and shoal.npx and shoal.onnx  # imported for the operators that they register

OPS_FOLDER = Path(__file__).parents[2] / "ops"
ELSEWHERE = {"gpu", "native", "nn", "optim", "onnx", "profile"}
FILES = sorted(p for p in OPS_FOLDER.rglob("*.py") if not ELSEWHERE & {*p.parts} and "xp." in p.read_text())
OURS = {*vars(CPU), *OPS, *Namespace.extra, "module", "ndarray", "special", "host", "rules"}
CUPYS = {*known(names.CUPY), "linalg", "fft", "random", "lib", "newaxis"}
GUARDED = {"ops/parts.py:spacing"}
"""Where a name that CuPy lacks is asked for on the host only."""


def asked(path: Path) -> list[tuple[str, str, int]]:
    """The function around it, the name and the line of all ``xp.name``; ``xp.linalg.name`` is "linalg.name"."""
    found = []
    tree = ast.parse(path.read_text())
    for around in [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))]:
        function = getattr(around, "name", "").rstrip("_")
        for node in ast.walk(around) if function else _outside(around):
            match node:
                case ast.Attribute(
                    value=ast.Attribute(value=ast.Name(id="xp"), attr="linalg" | "fft" as family), attr=name
                ):
                    found.append((function, f"{family}.{name}", node.lineno))
                case ast.Attribute(value=ast.Name(id="xp"), attr=name):
                    found.append((function, name, node.lineno))
    return found


def _outside(tree: ast.AST) -> list[ast.AST]:
    """What is in no function."""
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    return [n for n in ast.walk(tree) if id(n) not in inside]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(OPS_FOLDER)))
def test_every_name_of_xp_is_cupys_or_another_operator(path: Path) -> None:
    theirs = CUPYS | {f"linalg.{n}" for n in known(names.LINALG)} | {f"fft.{n}" for n in known(names.FFT)}
    where = f"ops/{path.relative_to(OPS_FOLDER)}"
    wrong = [
        (function, name, line)
        for function, name, line in asked(path)
        if name not in theirs and (name not in OURS or name == function) and f"{where}:{name}" not in GUARDED
    ]
    assert wrong == []


def test_names_are_found_in_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f(xp, x):\n    return xp.tanh(xp.linalg.qr(x)) + xp.pi\n")
    assert sorted(n for _, n, _ in asked(tmp_path / "a.py")) == ["linalg", "linalg.qr", "pi", "tanh"]
