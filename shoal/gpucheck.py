"""``python -m shoal.gpucheck``: whether shoal is right on this machine's GPU, and what that gives; all steps.

Those of operators and kernels are in `shoal.ops.gpucheck`, those of codecs and of the path to the servers in
`shoal.worker.device.checks`.
"""

import sys

from shoal.ops.gpucheck import main
from shoal.worker.device import checks

__all__ = ["main"]

assert checks  # imported for the steps that it registers

if __name__ == "__main__":
    sys.exit(main())
