"""ONNX's own cases of single operators: we pass what ONNX Runtime passes, and the documentation says so."""

import re
import warnings
from pathlib import Path

import onnx
import pytest

from tests.interop.conformance import OUT_OF_SCOPE, PROFILES, WHEELS, Tally, installed, of_wheel, table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore"),  # of the reference implementations
]

PAGE = Path(__file__).parents[2] / "docs" / "onnx.md"


@pytest.fixture(scope="module")
def newest() -> Tally:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Tally(installed())


@pytest.fixture(scope="module")
def older() -> Tally:
    assert list(WHEELS.glob("onnx-*.whl")), f"there is no wheel in {WHEELS}: see CASES in the Makefile"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Tally(of_wheel())


@pytest.mark.parametrize("profile", PROFILES)
def test_what_onnx_runtime_passes_of_a_profile_we_pass(profile: str, newest: Tally, older: Tally) -> None:
    assert newest.lacking(profile) == {} == older.lacking(profile)


def test_elsewhere_what_we_lack_is_known_by_operator(newest: Tally, older: Tally) -> None:
    print(table((f"onnx {onnx.__version__}", newest), ("onnx 1.16.2", older)))
    for tally in (newest, older):
        failed = {tally.ops[n] for n, why in tally.ours.items() if why and not tally.theirs[n]}
        assert failed <= OUT_OF_SCOPE, failed - OUT_OF_SCOPE


def test_the_page_has_the_counts_of_the_older_cases(older: Tally) -> None:
    """Those of the newest ones change with the package."""
    page = PAGE.read_text()
    for op, cases, passed, _ in older.rows():
        row = re.search(rf"^\| {re.escape(op)} \|.*\| {cases} \| {passed} \| \d+ \|$", page, re.MULTILINE)
        assert row, f"{op}: {passed} of {cases} are passed; python -m tests.interop.conformance --write"
