"""Public means listed, present and light."""

import inspect
import pickle  # noqa: TID251  # launchers such as Ray pickle exceptions; this test is about that
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import shoal
from shoal import errors

FACADES = [n for n in shoal.__all__ if isinstance(getattr(shoal, n), ModuleType)]
PUBLIC = [(f"shoal.{m}", n) for m in FACADES for n in getattr(shoal, m).__all__]


@pytest.mark.parametrize("name", shoal.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(shoal, name) is not None


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_of_a_facade_is_there_and_documented(module: str, name: str) -> None:
    thing = getattr(import_module(module), name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert inspect.getdoc(thing)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = shoal.nonsense


def test_importing_shoal_loads_nothing_heavy() -> None:
    code = (
        "import sys, shoal; print([m for m in ('numpy', 'zmq', 'msgpack', 'rich', 'cupy', 'ray') if m in sys.modules])"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_can_be_pickled_and_stands_in_the_tree(name: str) -> None:
    error = getattr(errors, name)("who, what")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # bytes of our own, made on this line
    assert type(again) is type(error) and str(again) == "who, what"
    assert isinstance(error, errors.ShoalError) and name in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ShapeError", errors.ShapeError),
        ("StaleWorkerError", errors.StaleWorkerError),
        ("named", errors.MembershipError),
        ("type", errors.MembershipError),
    ],
)
def test_errors_travel_by_name_and_no_other_name_is_looked_up(name: str, kind: type[errors.ShoalError]) -> None:
    error = errors.named(name, "text", errors.MembershipError)
    assert type(error) is kind and "text" in str(error)
