"""What the tests of codecs share."""

from typing import Any

import numpy as np

from shoal.kvstore.codecs import Address, Codec, CodecState, names, parse

AT = Address(seed=7, worker=1, slice=3, clock=0)

VARIANTS = [
    *names(),
    "2bit:threshold=0.125",
    "onebit:block=32",
    "efsign:block=64",
    "int8:block=32",
    "int8:feedback=true",
    "qsgd:levels=1,bucket=64",
    "qsgd:levels=127",
    "qsgd:levels=255",
    "topk:ratio=0.3",
    "demo:decay=1.0,chunk=8,top=5",
    "dgc:ratio=0.1,momentum=0,warmup=0",
    "dgc:ratio=0.1,momentum=0,warmup=1",
    "randomk:ratio=0.25",
    "randomk:ratio=0.25,feedback=true",
    "randomk:ratio=0.25,shared=true",
]
FEEDBACK = [s for s in VARIANTS if parse(s).has_feedback]
ADDS_UP = [s for s in FEEDBACK if s not in ("demo", "dgc")]  # with momentum the sum is not that of the gradients
STOCHASTIC = [s for s in VARIANTS if parse(s).name in ("int8", "qsgd", "randomk")]


def normal(n: int, dtype: str = "<f4", seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def decoded(codec: Codec, parts: Any, like: Any) -> Any:
    out = np.full(like.size, 99, like.dtype)
    codec.decode(parts, out)
    return out


def sent(codec: Codec, grad: Any, state: CodecState | None = None, at: Address = AT) -> Any:
    """What the server reads of ``grad``."""
    return decoded(codec, codec.encode(grad, CodecState() if state is None else state, at), grad)
