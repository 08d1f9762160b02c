"""Checks, one after another, told of in a table: what `slurm_check.py` and `ray_check.py` share."""

import time
from collections.abc import Callable, Sequence

__all__ = ["carry_out"]


def carry_out(
    todo: Sequence[Callable[[], str]], wanted: Sequence[str] = (), mend: Callable[[], None] = lambda: None
) -> int:
    """Make each check, and print a line of it as soon as it is over; 1 if anything is not as it should be, else 0.

    Args:
        todo: the checks. One returns what there is to say, and raises if anything is wrong.
        wanted: names of those that are made; none for all.
        mend: called after one that failed, so that the next finds nothing of it.
    Raises:
        SystemExit: with 2, there is no check of a wanted name.
    """
    names = [check.__name__ for check in todo]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        print(f"there is no check {', '.join(unknown)}; there are {', '.join(names)}")
        raise SystemExit(2)
    wrong, width = 0, max(map(len, names), default=0)
    for check in [c for c in todo if not wanted or c.__name__ in wanted]:
        began, good = time.monotonic(), False
        try:
            said, good = check(), True
        except Exception as e:
            said = f"{type(e).__name__}: {e}"
            mend()
        wrong += not good
        print(
            f"{'ok' if good else 'NO':3} {check.__name__:{width}} {time.monotonic() - began:6.1f} s  {said}", flush=True
        )
    return int(wrong > 0)
