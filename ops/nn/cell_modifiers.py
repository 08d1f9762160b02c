"""Cells made of cells: one after the other, in two directions, with dropout, zoneout, residual connections."""

from typing import Any

from shoal.errors import ConfigError
from shoal.ops import dropout, tape
from shoal.ops.elementwise import ones_like, where, zeros_like
from shoal.ops.nn.block import Block
from shoal.ops.nn.cells import RecurrentCell, States, merge_steps, split_steps
from shoal.ops.sequence import sequence_reverse
from shoal.ops.shape import concatenate, stack

__all__ = [
    "BidirectionalCell",
    "DropoutCell",
    "ModifierCell",
    "ResidualCell",
    "SequentialRNNCell",
    "VariationalDropoutCell",
    "ZoneoutCell",
]


class SequentialRNNCell(RecurrentCell):
    """Cells one after the other: each gets the output of the one before it. Their states follow each other."""

    def add(self, *cells: RecurrentCell) -> "SequentialRNNCell":
        """Append cells; returns this one."""
        for cell in cells:
            if not isinstance(cell, RecurrentCell):
                raise ConfigError(f"SequentialRNNCell.add takes cells, got {type(cell).__name__}")
            self.register_child(cell)
        return self

    def __len__(self) -> int:
        return len(self._children)

    def __getitem__(self, i: int) -> Block:
        return list(self._children.values())[i]

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """Those of all cells."""
        return [info for cell in self._cells() for info in cell.state_info(batch_size)]

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(input, states of all cells) to (output of the last, new states of all)."""
        new: States = []
        for cell, own in zip(self._cells(), self._shares(states), strict=True):
            x, made = cell(x, own)
            new += made
        return x, new

    def unroll(
        self,
        length: int,
        inputs: Any,
        begin_state: States | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
        valid_length: Any = None,
    ) -> tuple[Any, States]:
        """Run each cell over the whole sequence, one after the other; see `RecurrentCell.unroll`."""
        self.reset()
        merged = not isinstance(inputs, (list, tuple)) if merge_outputs is None else merge_outputs
        shares = [None] * len(self) if begin_state is None else self._shares(begin_state)
        states: States = []
        for number, (cell, own) in enumerate(zip(self._cells(), shares, strict=True)):
            last = merged if number == len(self) - 1 else None
            inputs, new = cell.unroll(length, inputs, own, layout, last, valid_length)
            states += new
        return inputs, states

    def _cells(self) -> list[RecurrentCell]:
        return [cell for cell in self._children.values() if isinstance(cell, RecurrentCell)]

    def _shares(self, states: States) -> list[States]:
        """The states of each cell."""
        rest = iter(states)
        return [[next(rest) for _ in cell.state_info()] for cell in self._cells()]


class DropoutCell(RecurrentCell):
    """Dropout as a cell without states, to stand between others.

    Args:
        rate: probability of zero, while training.
        axes: along these the same elements are dropped.
    """

    def __init__(self, rate: float, axes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.rate, self.axes = rate, tuple(axes)

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """None."""
        return []

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """The input with dropout."""
        return dropout.dropout(x, self.rate, axes=self.axes), states

    def extra_repr(self) -> str:
        """Rate."""
        return f"p = {self.rate}"


class ModifierCell(RecurrentCell):
    """Base of the cells that change what another one does.

    Args:
        base_cell: the other one; its parameters and states are this one's.
    """

    def __init__(self, base_cell: RecurrentCell) -> None:
        super().__init__()
        if not isinstance(base_cell, RecurrentCell):
            raise ConfigError(f"{type(self).__name__} changes a cell, got {type(base_cell).__name__}")
        self.base_cell = base_cell

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """Those of the base cell."""
        return self.base_cell.state_info(batch_size)


class ResidualCell(ModifierCell):
    """Adds the input to the output (Wu et al., arXiv:1609.08144); both must have the same features."""

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(output + input, states)."""
        out, states = self.base_cell(x, states)
        return out + x, states


class ZoneoutCell(ModifierCell):
    """Keeps elements of outputs and states as they were in the step before, at random (Krueger et al.,
    arXiv:1606.01305), while training.

    Args:
        base_cell: what is changed.
        zoneout_outputs, zoneout_states: probabilities of keeping.
    """

    def __init__(self, base_cell: RecurrentCell, zoneout_outputs: float = 0.0, zoneout_states: float = 0.0) -> None:
        super().__init__(base_cell)
        self.zoneout_outputs, self.zoneout_states = zoneout_outputs, zoneout_states
        object.__setattr__(self, "_previous", None)

    _previous: Any

    def reset(self) -> None:
        """Forget the output of the step before."""
        super().reset()
        object.__setattr__(self, "_previous", None)

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(output, states) of the base cell, with some elements as they were."""
        out, new = self.base_cell(x, states)
        before = zeros_like(out) if self._previous is None else self._previous
        out = _mixed(self.zoneout_outputs, out, before)
        new = [_mixed(self.zoneout_states, n, s) for n, s in zip(new, states, strict=True)]
        object.__setattr__(self, "_previous", out)
        return out, new


def _mixed(p: float, new: Any, old: Any) -> Any:
    """Elements of ``old`` with probability ``p`` while training, else of ``new``."""
    if not p or not tape.state.training:
        return new
    return where(dropout.dropout(ones_like(new), p) > 0, new, old)


class VariationalDropoutCell(ModifierCell):
    """Dropout with the same mask in all steps of a sequence (Gal and Ghahramani, arXiv:1512.05287), while training.

    Masks are drawn at the first step after `reset`, which `unroll` calls.

    Args:
        base_cell: what is changed.
        drop_inputs, drop_states, drop_outputs: probabilities of zero; of the states, the first one (h) is dropped.
    """

    def __init__(
        self,
        base_cell: RecurrentCell,
        drop_inputs: float = 0.0,
        drop_states: float = 0.0,
        drop_outputs: float = 0.0,
    ) -> None:
        super().__init__(base_cell)
        self.drop_inputs, self.drop_states, self.drop_outputs = drop_inputs, drop_states, drop_outputs
        object.__setattr__(self, "_masks", {})

    _masks: dict[str, Any]

    def reset(self) -> None:
        """Forget the masks."""
        super().reset()
        self._masks.clear()

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(output, states), each with its mask."""
        first, *rest = states
        out, new = self.base_cell(
            self._dropped("inputs", self.drop_inputs, x), [self._dropped("states", self.drop_states, first), *rest]
        )
        return self._dropped("outputs", self.drop_outputs, out), new

    def _dropped(self, what: str, p: float, x: Any) -> Any:
        if not p or not tape.state.training:
            return x
        if what not in self._masks:
            self._masks[what] = dropout.dropout(ones_like(x), p)
        return x * self._masks[what]


class BidirectionalCell(RecurrentCell):
    """One cell from the first step to the last, one back; outputs have both, side by side. Only to be unrolled.

    Args:
        l_cell: from the first step to the last.
        r_cell: from the last to the first.
    """

    def __init__(self, l_cell: RecurrentCell, r_cell: RecurrentCell) -> None:
        super().__init__()
        self.l_cell, self.r_cell = l_cell, r_cell

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """Those of both cells."""
        return self.l_cell.state_info(batch_size) + self.r_cell.state_info(batch_size)

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """A single step has no second direction.

        Raises:
            ConfigError: always; call `unroll`.
        """
        raise ConfigError("BidirectionalCell cannot make a single step: call unroll(length, inputs)")

    def unroll(
        self,
        length: int,
        inputs: Any,
        begin_state: States | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
        valid_length: Any = None,
    ) -> tuple[Any, States]:
        """Run both cells over the sequence; see `RecurrentCell.unroll`."""
        self.reset()
        merged = not isinstance(inputs, (list, tuple)) if merge_outputs is None else merge_outputs
        axis = layout.index("T")
        steps = stack(split_steps(inputs, length, axis), axis=0)
        count = len(self.l_cell.state_info())
        left, right = (None, None) if begin_state is None else (begin_state[:count], begin_state[count:])
        forth, ends = self.l_cell.unroll(length, steps, left, "TNC", True, valid_length)
        turned = _turned(steps, valid_length)
        back, others = self.r_cell.unroll(length, turned, right, "TNC", True, valid_length)
        both = concatenate([forth, _turned(back, valid_length)], axis=-1)
        return merge_steps(split_steps(both, length, 0), axis, merged, None), ends + others


def _turned(steps: Any, lengths: Any) -> Any:
    """(time, batch, ...) with time reversed, up to the end of each sequence."""
    return sequence_reverse(steps, lengths, lengths is not None)
