"""How many pieces of work a training step asks of a GPU, through a store: counted on a GPU made of NumPy."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
import shoal.worker.strategies.device
from shoal import autograd, nn
from shoal.ops.gpu.fake import fake_gpus
from shoal.ops.gpu.fake.timeline import FakeRecorded, Timeline
from shoal.worker.device.plan import planned
from tests.worker.device_streams import let_streams_go_on

OUTSIDE = Counter(power=1, sum=1, ones_like=1, fill=1, __mul__=2)
"""The loss, which is not part of the block: its operators, and their gradients."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Counter[str]]":
    """What has been asked of the GPU, by name; a recording that is launched is one piece."""
    found: Counter[str] = Counter()
    put, launch = Timeline.put, FakeRecorded.launch

    def counted(self: Timeline, name: str, *more: Any) -> None:
        found[name] += 1
        put(self, name, *more)

    def launched(self: FakeRecorded, stream: Any) -> None:
        found["launch of a recording"] += 1
        launch(self, stream)

    monkeypatch.setattr(Timeline, "put", counted)
    monkeypatch.setattr(FakeRecorded, "launch", launched)
    let_streams_go_on(monkeypatch)
    with fake_gpus():
        yield found


def steps(asked: "Counter[str]", layers: int, codec: str | None, recorded: bool = True) -> tuple[list[Any], int, Any]:
    """What each of some steps asks for, how many buckets there are, and the block."""
    net = nn.HybridSequential(*[nn.LayerNorm(in_channels=8) for _ in range(layers)])
    net.initialize()
    net.to("gpu")
    net.hybridize(recorded=recorded)
    options = {"learning_rate": 0.1}
    trainer = shoal.Trainer(net.collect_params(), "sgd", options, kvstore="local", compression_params=codec)
    found = []
    for _ in range(6):
        asked.clear()
        x = shoal.np.array(np.ones((4, 8), np.float32), device="gpu")
        with autograd.record():
            loss = (net(x) ** 2).sum()
        with trainer.overlap(4):
            loss.backward()
        trainer.step(4)
        trainer.wait()
        found.append(Counter(asked))
    buckets = len(trainer._stepper.path.buckets)
    trainer.finish()
    return found, buckets, net


@pytest.mark.parametrize("codec", [None, "bf16", "int8"])
@pytest.mark.parametrize("layers", [2, 5])
@pytest.mark.parametrize("bucket_bytes", [4_000_000, 1000])
def test_a_recorded_step_asks_for_what_the_documentation_says(
    asked: "Counter[str]", layers: int, codec: str | None, bucket_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shoal.worker.strategies.device, "planned", lambda items: planned(items, bucket_bytes))
    found, buckets, net = steps(asked, layers, codec)
    parameters = 2 * layers
    expected = OUTSIDE + Counter(
        {
            "launch of a recording": 2,  # forward, backward
            "copy": 1 + parameters + 4 * buckets,  # the result; gradients; to the host and back, with a word each
            "setitem": 2 + parameters,  # argument and cotangent to the recordings; gradients to where they belong
            "count the step": 1,
            "scale": buckets,
            "pack": buckets if codec else 0,
        }
    )
    assert net.why_not_recorded() == [] and buckets == (1 if bucket_bytes > 1000 else -(-parameters // 3))
    assert found[4] == found[5] == expected, (found[5] - expected, expected - found[5])


def test_without_recordings_a_step_asks_for_every_operator(asked: "Counter[str]") -> None:
    few, many = (steps(asked, layers, None, recorded=False)[0][-1].total() for layers in (2, 5))
    recorded = [steps(asked, layers, None)[0][-1].total() for layers in (2, 5)]
    assert recorded[1] - recorded[0] == 2 * 2 * 3  # two copies for each parameter
    assert (many - few) > 4 * (recorded[1] - recorded[0]) and few > recorded[0]
