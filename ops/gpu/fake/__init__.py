"""GPUs that are made of NumPy: for tests of what is written for GPUs, where there is none.

    >>> from shoal.ops.gpu.fake import fake_gpus
    >>> from shoal import np
    >>> with fake_gpus(2) as gpus:
    ...     x = np.ones(3, device="gpu:1") * 2.0
    ...     print(x.device, gpus[1].pending(), x.asnumpy(), gpus[1].pending())
    gpu:1 2 [2. 2. 2.] 0

They are no emulator: what they share with a GPU is what programs get wrong. Work is put off until somebody waits for
it, results are NaN (or 0) until then, arrays of two GPUs and of the host do not mix, memory that is freed is given
out again, a recording refuses what CUDA or CuPy refuses in one, and `FakeGpu.races` tells of work on two streams that
uses the same memory without waiting.
"""

from shoal.ops.gpu.fake.gpu import FakeGpu, fake_gpus

__all__ = ["FakeGpu", "fake_gpus"]
