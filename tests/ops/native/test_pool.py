"""One pool of threads for kernels and matrix products."""

import os
import subprocess
import sys

import pytest

from shoal.ops.native import compiler, pool
from tests.patience import RUN_S

TEAM = """
EXPORT int team(void) {
    int n = 1;
#ifdef _OPENMP
#pragma omp parallel num_threads(shoal_threads)
    {
#pragma omp single
        n = omp_get_num_threads();
    }
#endif
    return n;
}
"""

pytestmark = pytest.mark.skipif(compiler.load(TEAM) is None, reason=f"no native code: {compiler.why_not()}")


def team() -> int:
    library = compiler.load(TEAM)
    assert library is not None
    return int(library.team())


def run(code: str, **env: str) -> str:
    text = f"TEAM = {TEAM!r}\nfrom shoal.ops.native import compiler, pool\nlibrary = compiler.load(TEAM)\n{code}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "OPENBLAS_", "GOMP_", "SHOAL_"))}
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=RUN_S, env={**clean, **env}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_region_has_as_many_threads_as_the_pool() -> None:
    for n in (1, 2, 3):
        with pool.limited(n):
            assert team() == n == pool.threads()


def test_a_pool_without_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pool.set_threads(0)


def test_the_environment_says_how_many_threads() -> None:
    assert run("print(library.team(), pool.threads())", OMP_NUM_THREADS="3") == "3 3"


PRODUCT = """
import numpy as np
a = np.random.default_rng(0).standard_normal((300, 300)).astype("float32")
right = a.astype("float64") @ a.astype("float64")
def fine():
    assert np.abs(a @ a - right).max() < 1e-3
"""


@pytest.mark.parametrize("mode", ["unified", "passive", "separate"])
def test_matrix_products_are_right_in_every_mode(mode: str) -> None:
    assert run(PRODUCT + "fine(); print(pool.state().mode)", SHOAL_POOL=mode, OMP_NUM_THREADS="2") in (mode, "passive")


def test_a_product_does_not_wait_for_threads_that_openmp_may_not_start() -> None:
    assert run(PRODUCT + "fine(); print('done')", OMP_NUM_THREADS="2", OMP_THREAD_LIMIT="1") == "done"


def test_a_forked_child_computes_with_one_thread() -> None:
    code = PRODUCT + (
        "import os\nlibrary.team(); fine()\npid = os.fork()\n"
        "if pid == 0:\n    fine(); os._exit(0 if library.team() == 1 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), library.team())"
    )
    assert run(code, OMP_NUM_THREADS="2") == "0 2"


def test_a_child_of_a_process_that_is_just_compiling_can_load() -> None:
    code = (
        "import os\n"
        "with compiler._lock:\n    pid = os.fork()\n"
        "    if pid == 0: os._exit(0 if compiler.load(TEAM).team() == 1 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert run(code) == "0"


def test_several_python_threads_multiply_at_once() -> None:
    code = PRODUCT + (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(3) as e: list(e.map(lambda _: (fine(), library.team()), range(12)))\nprint('done')"
    )
    assert run(code, OMP_NUM_THREADS="2") == "done"


def test_the_environment_is_as_it_was() -> None:
    assert run("import os; print([k for k in os.environ if k.startswith(('OMP', 'GOMP'))])") == "[]"
