"""Nothing that shoal reads or receives may run: no pickle, no evaluation of text, no import of a name that is data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("shoal", "kvstore", "scheduler", "worker", "ops", "lab")
FILES = sorted(
    p for room in ROOMS for p in (ROOT / room).rglob("*.py") if not any(q.is_symlink() for q in p.parents if q != ROOT)
)

MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code", "codeop", "jsonpickle"}
"""They read data that can run."""

BUILTINS = {"eval", "exec", "compile", "__import__"}
"""They run text; methods of these names, of objects of ours, do not."""

CALLS = {"import_module", "run_path", "run_module", "exec_module", "system", "popen"}
"""They run a module, or a program, by its name."""

ALLOWED = {
    "shoal/__init__.py:import_module": "the names are those of its own table of submodules",
    "kvstore/__init__.py:import_module": "always the same module, when it is first needed",
    "shoal/plugins.py:exec_module": "a plug-in is a program; the command line names it, never a message",
    "worker/session.py:run_path": "the training script is a program; the command line names it",
}
"""Where it is right, and why."""


def found(path: Path) -> list[str]:
    """What a module does of the kind: ``name`` of each."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=modules):
                names += [a.name for a in modules if a.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module), names=taken):
                names += [module] if module.split(".")[0] in MODULES else []
                names += [a.name for a in taken if a.name in CALLS]
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS | CALLS:
                names.append(name)
            case ast.Call(func=ast.Attribute(attr=name, value=ast.Name(id="builtins"))) if name in BUILTINS:
                names.append(name)
            case ast.Call(func=ast.Attribute(attr=name)) if name in CALLS:
                names.append(name)
            case ast.Call(keywords=keywords) if any(
                k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                for k in keywords
            ):
                names.append("allow_pickle")
            case ast.Call(func=ast.Attribute(attr="load", value=ast.Name(id="np" | "numpy")), keywords=keywords):
                names += [] if any(k.arg == "allow_pickle" for k in keywords) else ["np.load"]
            case ast.Call(keywords=keywords) if any(
                k.arg == "shell" and isinstance(k.value, ast.Constant) and k.value.value for k in keywords
            ):
                names.append("shell=True")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_runs_nothing_that_is_data(path: Path) -> None:
    name = path.relative_to(ROOT)
    assert [what for what in found(path) if f"{name}:{what}" not in ALLOWED] == []


def test_every_exception_is_still_needed() -> None:
    used = {f"{p.relative_to(ROOT)}:{what}" for p in FILES for what in found(p)}
    assert set(ALLOWED) <= used


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import pickle", ["pickle"]),
        ("from pickle import loads", ["pickle"]),
        ("import shelve as s", ["shelve"]),
        ("eval(m.text)", ["eval"]),
        ("builtins.exec(text)", ["exec"]),
        ("importlib.import_module(m.name)", ["import_module"]),
        ("from importlib import import_module", ["import_module"]),
        ("os.system(m.text)", ["system"]),
        ("np.load(f)", ["np.load"]),
        ("np.load(f, allow_pickle=True)", ["allow_pickle"]),
        ("subprocess.run(text, shell=True)", ["shell=True"]),
        ("re.compile('a')", []),
        ("np.load(f, allow_pickle=False)", []),
        ("symbol.eval(x)", []),
    ],
)
def test_the_rule_knows_them(tmp_path: Path, text: str, what: list[str]) -> None:
    path = tmp_path / "m.py"
    path.write_text(text)
    assert found(path) == what
