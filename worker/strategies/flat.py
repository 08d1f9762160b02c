"""One update for many parameters: weights, gradients and states of a rule side by side in flat memory.

A rule that works element by element does not care where a parameter ends. So the parameters that share dtype and
factors are moved into one array (each remains what it was: a view of it), and one call of the rule updates all of them,
with the bits that separate calls would give. Where something does not fit, such as a gradient that is missing in a
step, or weights that somebody replaced, the parameters are updated one by one, in the same memory.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shoal.ops.nn.parameter import Parameter
from shoal.ops.optim import Optimizer, State

__all__ = ["Flat", "flattened"]

ALIGN = 16
"""Elements to whose multiples parameters begin: cache lines of float32."""


class Flat:
    """Parameters in one array.

    Args:
        params: by name, all of one dtype, with the same factors on rate and decay.
        optimizer: whose states they get.
    """

    def __init__(self, params: Mapping[str, Parameter], optimizer: Optimizer) -> None:
        self.params = dict(params)
        shapes = {n: p.current().data.shape for n, p in self.params.items()}
        ends, end = {}, 0
        for name, shape in shapes.items():
            ends[name] = (end, end + math.prod(shape))
            end += -(-math.prod(shape) // ALIGN) * ALIGN
        first = next(iter(self.params.values()))
        self.lr_mult, self.wd_mult = first.lr_mult, first.wd_mult
        self.memory: dict[str, Any] = {
            "weight": np.zeros(end, first.current().dtype),
            "grad": np.zeros(end, first.current().dtype),
        }
        self.state: State = optimizer.init(self.memory["weight"])
        self.views = {
            name: {key: a[i:j].reshape(shapes[name]) for key, a in (*self.memory.items(), *self.state.items())}
            for name, (i, j) in ends.items()
        }
        for name, p in self.params.items():
            view = self.views[name]["weight"]
            view[...] = p.current().data
            p.current().data = view

    def states(self, name: str) -> State:
        """The state of one parameter: views."""
        return {key: self.views[name][key] for key in self.state}

    def step(self, optimizer: Optimizer, grads: Mapping[str, Any], states: dict[str, tuple[int, State]]) -> bool:
        """Update all parameters in one call, if each has its gradient here; False, and nothing done, otherwise.

        Args:
            grads, states: by name, as of `shoal.worker.strategies.site.Site`; the states are advanced.
        """
        times = {states[n][0] if n in states else 0 for n in self.params}
        if len(times) != 1 or not all(self._fits(n, grads, p) for n, p in self.params.items()):
            return False
        (t,) = times
        for name in self.params:
            self._adopt(name, states)
            states[name] = (t + 1, states[name][1])
        optimizer.step(
            self.memory["weight"], self.memory["grad"], self.state, t + 1, lr_mult=self.lr_mult, wd_mult=self.wd_mult
        )
        return True

    def _fits(self, name: str, grads: Mapping[str, Any], p: Parameter) -> bool:
        here = self.views[name]
        same = (p.lr_mult, p.wd_mult) == (self.lr_mult, self.wd_mult)
        return same and grads.get(name) is here["grad"] and p.current().data is here["weight"]

    def _adopt(self, name: str, states: dict[str, tuple[int, State]]) -> None:
        """Make sure that a parameter's state lies here: one that was loaded is copied."""
        mine = self.states(name)
        if name in states:
            t, state = states[name]
            for key, view in mine.items():
                if state[key] is not view:
                    view[...] = state[key]
            states[name] = (t, mine)
        else:
            states[name] = (0, mine)


def flattened(params: Mapping[str, Parameter], optimizer: Optimizer, names: Sequence[str]) -> list[Flat]:
    """The parameters ``names`` in as few flat arrays as possible; those that cannot be moved are left out."""
    if optimizer.whole or optimizer.multi_precision:
        return []
    groups: dict[Any, dict[str, Parameter]] = {}
    for name in names:
        p = params[name]
        data = p.current().data
        if isinstance(data, np.ndarray) and data.dtype.char in "fd" and data.size:
            groups.setdefault((data.dtype, p.lr_mult, p.wd_mult), {})[name] = p
    return [Flat(group, optimizer) for group in groups.values() if len(group) > 1]
