"""The command of ``python -m shoal.gpucheck``: what this machine's GPU gives, and whether shoal is right on it.

Without a GPU it says so, does what needs none, and ends well. See `shoal.ops.gpu.check` for how steps are written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import ConfigError
from shoal.ops.backend import gpu_count
from shoal.ops.gpu import benchchecks, check, checks, kernelchecks, sanitizer, stepchecks

__all__ = ["main"]

assert benchchecks and checks and kernelchecks and sanitizer and stepchecks  # imported for the steps that they register


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the steps, or show a result; 1 if a case failed, 2 if there is no such step or result, else 0."""
    parser = argparse.ArgumentParser(prog="python -m shoal.gpucheck", description=__doc__)
    parser.add_argument("--budget", type=float, default=480.0, metavar="SECONDS", help="for all steps (default: 480)")
    parser.add_argument("--out", default="", metavar="DIR", help="for result.json (default: $OUT, gpu-check-out)")
    parser.add_argument("--only", default="", metavar="STEPS", help="names of steps, separated by commas")
    parser.add_argument("--replay", default="", metavar="FILE", help="only show this result.json, of another run")
    parser.add_argument("--list", action="store_true", help="name the steps, and do nothing")
    o = parser.parse_args(arguments)
    try:
        if o.replay:
            results, gpus = check.read(Path(o.replay))
            print(check.table(results, gpus))
            return int(any(r.failed for r in results.values()))
        wanted = check.chosen(o.only)
    except ConfigError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    if o.list:
        print("\n".join(f"{s.name}: {(s.run.__doc__ or '').strip().splitlines()[0]}" for s in wanted))
        return 0
    gpus, out = gpu_count(), check.main_folder(o.out)
    results = check.run(wanted, out, o.budget, gpus)
    print(check.table(results, gpus))
    print(f"written to {out / 'result.json'}")
    return int(any(r.failed for r in results.values()))


if __name__ == "__main__":
    sys.exit(main())
