"""What the tests of workers have in common."""

from collections.abc import Iterator

import pytest

from shoal.worker import record


@pytest.fixture(autouse=True)
def own_record() -> Iterator[None]:
    """This process's record is the test's own; it would keep the store of the one before."""
    before = record.current()
    record.use(record.RunRecord())
    yield
    record.use(before)
