"""Freed memory stays with the process, unless the user says otherwise."""

import pytest

from shoal.ops.native import memory

CHOICES = [{"SHOAL_MALLOC": "0"}, {"MALLOC_TRIM_THRESHOLD_": "1"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_who_has_chosen_is_left_alone(choice: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in choice.items():
        monkeypatch.setenv(name, value)
    assert not memory.keep.__wrapped__()


def test_it_is_done_once() -> None:
    assert memory.keep() is memory.keep()
