"""Compile the fixed C kernels while a wheel is built, where there is a compiler; without one the wheel is pure Python.

Kernels that are not built here are compiled when they are first needed (docs/native.md), so nothing depends on it.
``SHOAL_BUILD_NATIVE=0`` asks for the pure wheel, which installs everywhere.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

NATIVE = Path(__file__).parent / "ops" / "native"


def module(name: str) -> ModuleType:
    """A module of the package, which itself cannot be imported here: NumPy may be missing."""
    spec = importlib.util.spec_from_file_location(f"shoal.ops.native.{name}", NATIVE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def wanted() -> bool:
    """Whether kernels are to be compiled: somebody may have said no, and there may be no compiler."""
    return os.environ.get("SHOAL_BUILD_NATIVE", "1") != "0" and compiler.compiler() is not None


class Build(build_py):
    """The package, and the compiled kernels beside their sources."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode and wanted():
            count = compiler.build_fixed(Path(self.build_lib) / "shoal" / "ops" / "native" / "built")
            print(f"{count} files of compiled kernels")


class Wheel(bdist_wheel):
    """With compiled kernels a wheel is for one platform, and any Python."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not wanted()

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


for parent in ("shoal", "shoal.ops", "shoal.ops.native"):
    sys.modules.setdefault(parent, ModuleType(parent))
prebuilt = module("prebuilt")
sys.modules["shoal.ops.native"].prebuilt = prebuilt  # type: ignore[attr-defined]
compiler = module("compiler")
setup(cmdclass={"build_py": Build, "bdist_wheel": Wheel})
