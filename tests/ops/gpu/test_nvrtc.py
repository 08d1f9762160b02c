"""Every kernel compiles for A100, H100 and B200: NVRTC needs no GPU. Skipped where it is not installed."""

import numpy as np
import pytest

from shoal.errors import GraphError
from shoal.ops.gpu import nvrtc
from shoal.ops.gpu.kernels import program
from shoal.ops.precision import BFLOAT16

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
FILES = sorted(p.name for p in (program.Path(program.__file__).parents[1] / "c").glob("*.cu"))
SINGLE, DOUBLE, HALF = (np.dtype(t) for t in (np.float32, np.float64, np.float16))


@needs_nvrtc
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_all_kernels_of_a_file_compile(file: str, architecture: str) -> None:
    types = {"sm_80": [HALF], "sm_90": [BFLOAT16, SINGLE], "sm_100": [DOUBLE]}[architecture]
    code = nvrtc.compiled(program.every(file, *types), architecture, program.OPTIONS)
    assert code[:4] == b"\x7fELF"


@needs_nvrtc
def test_what_does_not_compile_is_told_with_the_compilers_words() -> None:
    with pytest.raises(GraphError, match="undefined"):
        nvrtc.compiled("void f() { g(); }", "sm_90")


def test_where_the_library_is_not_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_library", lambda: None)
    assert not nvrtc.available() and nvrtc.version() == (0, 0)
    with pytest.raises(GraphError, match="pip install nvidia-cuda-nvrtc"):
        nvrtc.compiled("", "sm_90")
