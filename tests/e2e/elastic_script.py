"""What the workers of `test_elastic_run` run: training that writes down its samples, and goes wrong on purpose.

Arguments: folder, epochs, strategy or "", and a JSON object from "rank.incarnation.step" to what shall happen there:
"kill", "kill soon" (a thread does it, at any moment), "leave", "wait" (for a change of the set of workers), "join".
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

import shoal
from shoal import autograd, nn
from shoal.worker import cluster

SAMPLES, BATCH = 240, 4

out, epochs, strategy, plan = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
place = cluster.current()
book = (out / f"{place.rank}.{place.incarnation}.jsonl").open("a", buffering=1)


def wait_for_change() -> None:
    assert place.elastic is not None
    until = time.monotonic() + 200.0
    while not place.elastic.changing and len(place.elastic.shares) == 1:
        assert time.monotonic() < until, "nobody has come"
        time.sleep(0.002)


def happen(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "kill soon":
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGKILL)).start()
    elif what == "leave":
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "wait":
        wait_for_change()
    elif what == "join":
        (out / "join").touch()
        wait_for_change()


numbers = np.arange(SAMPLES)
x = ((numbers[:, None] * np.arange(1, 9)) % 17 / 17).astype("float32")
y = (numbers % 5).astype("float32")
loader = shoal.data.DataLoader(
    shoal.data.ArrayDataset(x, y, numbers), BATCH, shuffle=True, last_batch="keep", prefetch=2
)
net = nn.HybridSequential()
net.add(nn.Dense(4096, activation="relu"), nn.Dense(5))  # two weights of their own, and biases together
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05}, strategy=strategy or None)
for _ in range(epochs):
    for a, b, ids in loader:
        step = trainer.steps
        happen(plan.get(f"{place.rank}.{place.incarnation}.{step}", ""))
        book.write(json.dumps(["begin", step, ids.asnumpy().tolist()]) + "\n")
        with autograd.record():
            loss = loss_of(net(a), b)
        loss.backward()
        trainer.step(len(a))
        book.write(json.dumps(["end", step, ids.asnumpy().tolist()]) + "\n")
trainer.finish()
book.write(json.dumps(["done", trainer.steps, []]) + "\n")
