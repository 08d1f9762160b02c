"""Graphs are compared with imperative execution bit by bit here, so kernels that sum in another order are off."""

from collections.abc import Iterator

import pytest

from shoal.ops.graph import kernels


@pytest.fixture(autouse=True)
def _exact(request: pytest.FixtureRequest) -> Iterator[None]:
    with kernels.exactly("makers" not in request.fixturenames):  # tests of kernels register their own
        yield
