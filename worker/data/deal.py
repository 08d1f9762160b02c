"""How an order of samples is cut into the batches of several workers: numbers only, no samples."""

from dataclasses import dataclass

__all__ = ["LAST_BATCH", "Deal"]

LAST_BATCH = ("discard", "keep", "pad")
"""What may become of the samples that do not fill a global batch; see `shoal.worker.data.sharding.Sharding`."""


@dataclass(frozen=True, kw_only=True)
class Deal:
    """``size`` places, cut into global batches of ``batch_size * parts``; part i of each belongs to the i-th worker.

    All parts have the same number of steps, and at every step the same number of places.

    Args:
        size: how many places there are.
        batch_size: places in a full batch of one worker.
        parts: how many workers; with 0 there are no steps.
        last_batch: "discard" leaves out the places that fill no global batch, "keep" makes a smaller one of as many
            as can be divided equally, "pad" goes on beyond the last place.
    """

    size: int
    batch_size: int
    parts: int
    last_batch: str

    @property
    def steps(self) -> int:
        """Batches of each worker."""
        if not self.parts:
            return 0
        full, left = divmod(self.size, self.batch_size * self.parts)
        more = {"discard": False, "keep": left >= self.parts, "pad": left > 0}
        return full + more[self.last_batch]

    def whole(self, step: int) -> tuple[int, int]:
        """First and last place, exclusive, of all workers at ``step``; beyond ``size`` only where places are padded."""
        start, end = step * self.batch_size * self.parts, (step + 1) * self.batch_size * self.parts
        return start, min(end, self.size - self.size % self.parts) if self.last_batch == "keep" else end

    def part(self, index: int, step: int) -> tuple[int, int]:
        """First and last place, exclusive, of the ``index``-th worker at ``step``."""
        start, end = self.whole(step)
        size = (end - start) // self.parts
        return start + index * size, start + (index + 1) * size
