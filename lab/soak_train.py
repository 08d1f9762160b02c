"""What `shoal.lab.soak` trains: digits, or a small language model; a script for ``shoal run``.

Each step is an event of the worker's event log, so that one sees who was served when.
"""

import argparse
import logging
import time
from typing import Any

import numpy as np

import shoal
from shoal import nn
from shoal.kvstore.eventlog import event
from shoal.ops.random import stream

log = logging.getLogger("shoal.soak")

SYMBOLS, CONTEXT = 12, 6
TEXT_CHARS = (6000, 1500)
"""Of the text: to train on, and held out."""


class Pace(shoal.Callback):
    """No more steps than so many a second, which are caught up with after a pause; each is an event."""

    def __init__(self, rate: float) -> None:
        self._pause_s = 1 / rate if rate else 0.0
        self._due, self._steps = time.monotonic(), 0

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """Note the step, and wait until it is time for the next."""
        self._steps += 1
        if not self._pause_s:
            return
        log.debug("step %d", self._steps, extra=event("step", "", step=self._steps))
        self._due += self._pause_s
        time.sleep(max(0.0, self._due - time.monotonic()))


def digits() -> tuple[Any, Any, Any]:
    """A network and its data: the UCI digits. Its large layers are keys of their own, on both of two servers."""
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(256, activation="relu"), nn.Dense(128, activation="relu"), nn.Dense(10))
    return net, shoal.data.digits("train"), shoal.data.digits("test")


def language() -> tuple[Any, Any, Any]:
    """A network that guesses the next symbol from the last six, and a text: of a source that looks back two symbols."""
    net = nn.HybridSequential()
    net.add(nn.Embedding(SYMBOLS, 8), nn.Flatten(), nn.Dense(400, activation="tanh"), nn.Dense(SYMBOLS))
    train, test = (_text(n, part) for part, n in enumerate(TEXT_CHARS))
    return net, train, test


def _text(length: int, part: int) -> Any:
    """Windows of a text and what follows each: the source has four likely symbols after each two, one of them 0.7."""
    source = stream(0, "soak source").permuted(np.tile(np.arange(SYMBOLS), (SYMBOLS * SYMBOLS, 1)), axis=1)
    drawn = stream(0, "soak text", worker=part).random(length + CONTEXT)
    text = [0, 1]
    for chance in drawn:
        choice = 0 if chance < 0.7 else 1 + int((chance - 0.7) * 10)
        text.append(int(source[text[-2] * SYMBOLS + text[-1]][choice]))
    symbols = np.array(text[2:], np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(symbols, CONTEXT)[:length]
    return shoal.data.ArrayDataset(windows.copy(), symbols[CONTEXT:].copy())


def main() -> None:
    """Train, and report the accuracy on what was held out."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--task", choices=("digits", "language"), default="digits")
    p.add_argument("--steps", type=int, default=300, help="of each worker, rounded up to whole epochs")
    p.add_argument("--rate", type=float, default=0.0, help="steps a second at most; 0: as fast as it goes")
    p.add_argument("--batch", type=int, default=16)
    o = p.parse_args()
    net, train, test = {"digits": digits, "language": language}[o.task]()
    net.initialize(shoal.init.Xavier())
    net.hybridize()
    data = shoal.data.DataLoader(train, o.batch, shuffle=True)
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.5})
    loss = nn.SoftmaxCrossEntropyLoss()
    shoal.fit(
        net,
        data,
        loss=loss,
        trainer=trainer,
        epochs=-(-o.steps // len(data)),
        val_data=shoal.data.DataLoader(test, 256),
        callbacks=[Pace(o.rate)],
    )


if __name__ == "__main__":
    main()
