"""C text of loops over the rows of a matrix, many vectors of columns at a time: sums over pixels, and maps of them.

Images that lie channels-last are such a matrix: a row for each pixel, a column for each channel. Rows are taken in
blocks of fixed length, so that sums do not depend on the number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Columns"]

BLOCK_BYTES = 16 << 10
"""Of one array, in a block of rows: it is read twice, the second time from the first-level cache."""

TOGETHER = 4
"""Vectors of columns that one loop over the rows takes."""


@dataclass(frozen=True)
class Columns:
    """A matrix of ``rows`` x ``width`` floats."""

    rows: int
    width: int
    lanes: int

    @property
    def padded(self) -> int:
        """The width, rounded up to whole vectors."""
        return -(-self.width // self.lanes) * self.lanes

    @property
    def block(self) -> int:
        """Rows in a block."""
        return max(8, min(self.rows, BLOCK_BYTES // (4 * self.width)))

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.rows // self.block)

    def bounds(self) -> str:
        """C: the rows r0, ..., r1 - 1 of block ``t``."""
        end = f"r0 + {self.block} < {self.rows} ? r0 + {self.block} : {self.rows}"
        return f"const long r0 = t * {self.block}L, r1 = {end};"

    def groups(self) -> Iterator[list[int]]:
        """Numbers of the vectors that are done together."""
        every = list(range(self.padded // self.lanes))
        for first in range(0, len(every), TOGETHER):
            yield every[first : first + TOGETHER]

    def load(self, pointer: str, k: int, row: str = "r") -> str:
        """C: vector k of a row."""
        place, rest = f"{pointer} + ({row}) * {self.width}L + {k * self.lanes}", self.width - k * self.lanes
        return f"*(const vec *)({place})" if rest >= self.lanes else f"load_part({place}, {rest})"

    def store(self, pointer: str, k: int, value: str) -> str:
        """C: write vector k of row r."""
        place, rest = f"{pointer} + r * {self.width}L + {k * self.lanes}", self.width - k * self.lanes
        return f"*(vec *)({place}) = {value};" if rest >= self.lanes else f"store_part({place}, {value}, {rest});"

    def each(self, group: Sequence[int], body: Callable[[int, str], str]) -> str:
        """C: ``body(k, row)`` for the vectors of a group and all rows of the block."""
        return f"for (long r = r0; r < r1; r++) {{ {' '.join(body(k, 'r') for k in group)} }}"

    def sums(self, group: Sequence[int], names: Sequence[str], terms: Callable[[int, str], Sequence[str]]) -> str:
        """C: declare the vector ``name_k`` for each name, the sum over the rows of the block of its term.

        Several rows are summed apart, since one sum has to wait for the one before.
        """
        apart = max(1, 8 // (len(group) * len(names)))
        lines = [f"vec {n}{u}_{k} = {{0}};" for n in names for u in range(apart) for k in group]
        lines.append("long r = r0;")

        def add(u: int, row: str) -> str:
            parts = []
            for k in group:
                parts += [f"{n}{u}_{k} += {term};" for n, term in zip(names, terms(k, row), strict=True)]
            return " ".join(parts)

        whole = " ".join(add(u, f"r + {u}") for u in range(apart))
        lines.append(f"for (; r + {apart} <= r1; r += {apart}) {{ {whole} }}")
        lines.append(f"for (; r < r1; r++) {{ {add(0, 'r')} }}")
        for n in names:
            lines += [f"{n}_{k} = {' + '.join(f'{n}{u}_{k}' for u in range(apart))};" for k in group]
        declared = " ".join(f"vec {n}_{k};" for n in names for k in group)
        return f"{declared} {{ {' '.join(lines)} }}"
