"""Where time and memory go, operator by operator: imperative and hybrid, forward and backward.

    with profiler.profile() as p:
        with autograd.record():
            loss = loss_fn(net(x), y).mean()
        loss.backward()
    print(p.table(limit=20))
    p.save("profile.json")          # for ui.perfetto.dev

MXNet's `set_config`, `set_state`, `dumps`, `dump`, `pause` and `resume` are here too.
"""

from shoal.ops.profile.control import (
    Event,
    Frame,
    Profile,
    Task,
    dump,
    dumps,
    pause,
    resume,
    set_config,
    set_state,
    state,
)
from shoal.ops.profile.recorder import scope

profile = Profile

__all__ = [
    "Event",
    "Frame",
    "Profile",
    "Task",
    "dump",
    "dumps",
    "pause",
    "profile",
    "resume",
    "scope",
    "set_config",
    "set_state",
    "state",
]
