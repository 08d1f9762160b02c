"""The script of ``bench_join.py``: steps that wait on a timer, each written down with the time at which it ended.

Arguments: folder, milliseconds of a step, and steps until which to go on.
"""

import json
import os
import sys
import time
from pathlib import Path

BEGUN = time.time()  # before the imports, which are a part of what joining takes

import numpy as np  # noqa: E402

import shoal  # noqa: E402
from shoal import autograd, nn  # noqa: E402
from shoal.worker import cluster  # noqa: E402

folder, step_s, steps = Path(sys.argv[1]), float(sys.argv[2]) / 1e3, int(sys.argv[3])
place = cluster.current()
book = (folder / f"worker-{place.rank}.jsonl").open("a", buffering=1)


def write(what: str, step: int) -> None:
    book.write(json.dumps({"what": what, "step": step, "time": time.time(), "pid": os.getpid()}) + "\n")


book.write(json.dumps({"what": "script", "step": -1, "time": BEGUN, "pid": os.getpid()}) + "\n")
net = nn.Dense(4)
net.initialize(shoal.init.Xavier())
x = shoal.np.array(np.ones((2, 3), np.float32))
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})
net(x)
write("ready", -1)
shoal.boundary()
write("entered", trainer.steps)
while trainer.steps < steps and not (folder / "stop").exists():
    time.sleep(step_s)
    with autograd.record():
        loss = (net(x) ** 2).mean()
    loss.backward()
    trainer.step(2)
    write("step", trainer.steps)
write("done", trainer.steps)
