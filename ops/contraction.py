"""How `einsum` is computed: two operands at a time, each pair as one (batched) matrix product.

NumPy's own einsum takes BLAS for pairs without batch axes only, and looks for the best order anew at each call. Here
the order is found once for each set of shapes (greedily: the cheapest pair first), and kept.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from shoal.ops.precision import wide

__all__ = ["contracted", "order"]

Step = tuple[int, int, str]
"""The places of two operands, and the axes of their product, which goes to the end of the list."""


@lru_cache(maxsize=1024)
def order(terms: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], output: str) -> tuple[Step, ...]:
    """In which order to contract, pair by pair.

    >>> order(("ab", "bc", "cd"), ((10, 1000), (1000, 5), (5, 600)), "ad")
    ((0, 1, 'ac'), (0, 1, 'ad'))
    """
    lengths: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, n in zip(term, shape, strict=True):
            lengths[letter] = max(lengths.get(letter, 1), n)
    left, steps = list(terms), []
    while len(left) > 1:
        pairs = [(i, j) for i in range(len(left)) for j in range(i + 1, len(left))]
        i, j = min(pairs, key=lambda p: _cost(left, p, output, lengths))
        made = output if len(left) == 2 else _product(left, i, j, output)
        steps.append((i, j, made))
        left = [t for k, t in enumerate(left) if k not in (i, j)] + [made]
    return tuple(steps)


def _product(terms: Sequence[str], i: int, j: int, output: str) -> str:
    """The axes of a product: those that are needed later."""
    later = set(output).union(*(t for k, t in enumerate(terms) if k not in (i, j)))
    return "".join(c for c in dict.fromkeys(terms[i] + terms[j]) if c in later)


def _cost(terms: Sequence[str], pair: tuple[int, int], output: str, lengths: dict[str, int]) -> tuple[int, int]:
    """How much memory a product takes more than its factors, and how many multiplications."""
    i, j = pair

    def size(term: str) -> int:
        return math.prod(lengths[c] for c in term)

    made = _product(terms, i, j, output)
    return size(made) - size(terms[i]) - size(terms[j]), size("".join(set(terms[i] + terms[j])))


def contracted(xp: Any, subscripts: str, arrays: Sequence[Any]) -> Any:
    """``einsum`` with explicit output, without ellipsis, each letter once in an operand."""
    left, _, output = subscripts.partition("->")
    terms = left.split(",")
    operands = [wide(a) for a in arrays]
    for i, j, made in order(tuple(terms), tuple(tuple(a.shape) for a in operands), output):
        a, b, ta, tb = operands[i], operands[j], terms[i], terms[j]
        product = _pair(xp, a, ta, b, tb, made)
        operands = [x for k, x in enumerate(operands) if k not in (i, j)] + [product]
        terms = [t for k, t in enumerate(terms) if k not in (i, j)] + [made]
    (out,), (term,) = operands, terms
    return _reduced(xp, out, term, output) if term != output else out


def _reduced(xp: Any, x: Any, term: str, output: str) -> Any:
    """Sum over the axes that ``output`` has not, the others in its order."""
    gone = tuple(i for i, c in enumerate(term) if c not in output)
    if gone:
        x = xp.sum(x, axis=gone)
        term = "".join(c for c in term if c in output)
    return x.transpose([term.index(c) for c in output]) if term != output else x


def _pair(xp: Any, a: Any, ta: str, b: Any, tb: str, output: str) -> Any:
    """The product of two operands: sums over what only one of them has first, then one matrix product."""
    kept_a = "".join(c for c in ta if c in tb or c in output)
    kept_b = "".join(c for c in tb if c in ta or c in output)
    a, b = _reduced(xp, a, ta, kept_a), _reduced(xp, b, tb, kept_b)
    size_a, size_b = dict(zip(kept_a, a.shape, strict=True)), dict(zip(kept_b, b.shape, strict=True))
    if any(size_b.get(c, n) != n for c, n in size_a.items()):  # an axis of length 1 meets a longer one
        return xp.einsum(f"{kept_a},{kept_b}->{output}", a, b)
    both = [c for c in kept_a if c in size_b]
    batch, summed = [c for c in both if c in output], [c for c in both if c not in output]
    if not summed:
        return _aligned(a, kept_a, output) * _aligned(b, kept_b, output)
    rows, columns = [c for c in kept_a if c not in size_b], [c for c in kept_b if c not in size_a]
    lead = [size_a[c] for c in batch]
    m, k, n = (math.prod(d[c] for c in cs) for d, cs in ((size_a, rows), (size_a, summed), (size_b, columns)))
    left = _reduced(xp, a, kept_a, "".join(batch + rows + summed)).reshape(*lead, m, k)
    right = _reduced(xp, b, kept_b, "".join(batch + summed + columns)).reshape(*lead, k, n)
    out = xp.matmul(left, right).reshape([*lead, *(size_a[c] for c in rows), *(size_b[c] for c in columns)])
    return _reduced(xp, out, "".join(batch + rows + columns), output)


def _aligned(x: Any, term: str, output: str) -> Any:
    """x with its axes in the order of ``output``, and axes of length 1 for the letters that it has not."""
    x = x.transpose([term.index(c) for c in output if c in term])
    lengths = iter(x.shape)
    return x.reshape([next(lengths) if c in term else 1 for c in output])
