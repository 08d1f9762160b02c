"""Memory that is freed stays with the process, for the next step."""

import ctypes
import os
from functools import cache

__all__ = ["keep"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


@cache
def keep() -> bool:
    """Tell the C library to keep freed blocks of up to 1 GiB; False where it is not glibc, or the user has chosen.

    glibc gives large blocks back to the system at once. Fetching 32 MB again, page after page, takes longer than most
    operators need to fill them. ``SHOAL_MALLOC=0``, and glibc's own variables, leave it as it is.
    """
    names = {name for name in os.environ if name.startswith("MALLOC_")}
    chosen = bool(names) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if chosen or tune is None or os.environ.get("SHOAL_MALLOC", "").strip() == "0":
        return False
    done = [tune(parameter, KEPT_BYTES) for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)]
    return all(done)
