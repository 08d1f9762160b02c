"""What the workers of `test_ray_run` run: digits, for so many steps, or until a file says that it is enough.

Arguments: steps, 0 for as many as it takes; seconds to wait in each step; the file, and a directory for signs of life.
"""

import os
import sys
import time
from pathlib import Path

import shoal
from shoal import autograd, nn

steps, pause_s, enough, signs = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
net = nn.HybridSequential()
net.add(nn.Dense(64, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.03, "momentum": 0.9})
batches = shoal.data.DataLoader(shoal.data.digits("train"), 32, shuffle=True)


def over() -> bool:
    return trainer.steps >= steps if steps else enough.exists()


while not over():
    for x, y in batches:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
        (signs / f"worker{shoal.rank()}").write_text(str(trainer.steps))
        time.sleep(pause_s)
        if over():
            break
trainer.finish()
if shoal.rank() == 0:
    test = shoal.data.DataLoader(shoal.data.digits("test"), 64)
    shoal.report(accuracy=shoal.evaluate(net, test)["accuracy"])
print("trained", trainer.steps)
print("gpus", os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
