"""Devices: where tensors are made, moved to, and worked on. On fake GPUs."""

import pickle  # noqa: TID251  # processes are started with devices as arguments; this test is about that
from collections.abc import Iterator

import numpy
import pytest

import shoal
from shoal import autograd, nn, np
from shoal.errors import ConfigError, DeviceError
from shoal.ops.context import as_device, of_worker
from shoal.ops.gpu.fake import FakeGpu, fake_gpus


@pytest.fixture
def gpus() -> Iterator[list[FakeGpu]]:
    with fake_gpus(2) as found:
        yield found
    shoal.set_device("cpu")


def test_a_device_is_text() -> None:
    assert shoal.gpu(1) == "gpu:1" and shoal.cpu() == "cpu" and hash(shoal.gpu()) == hash("gpu:0")
    assert shoal.Device("cuda:2") == "gpu:2" and shoal.Device("gpu") == "gpu:0"
    assert shoal.gpu(3).device_type == "gpu" and shoal.gpu(3).device_id == 3 and shoal.cpu().device_id == 0
    assert repr(shoal.gpu(1)) == "Device('gpu:1')"
    assert pickle.loads(pickle.dumps(shoal.gpu(1))) == "gpu:1"  # noqa: S301  # bytes of our own


@pytest.mark.parametrize("name", ["tpu", "gpu:", "gpu:x", "cpu:1", ""])
def test_an_unknown_device_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="no device is called"):
        shoal.Device(name)


def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    if shoal.num_gpus():
        pytest.skip("there are GPUs here")
    with pytest.raises(ConfigError, match=r"pip install|does not exist"), shoal.gpu(0):
        pass
    with pytest.raises(ConfigError, match=r"pip install|does not exist"):
        np.ones(3, device="gpu:0")


def test_new_tensors_are_made_on_the_current_device(gpus: list[FakeGpu]) -> None:
    assert shoal.num_gpus() == 2 and shoal.current_device() == "cpu" and np.zeros(2).device == "cpu"
    with shoal.gpu(1):
        assert shoal.current_device() == "gpu:1"
        made = [np.zeros(2), np.ones(2), np.array([1, 2]), np.arange(3), np.eye(2), np.random.uniform(size=3)]
        assert {x.device for x in made} == {"gpu:1"}
        with shoal.cpu():
            assert np.zeros(2).device == "cpu"
        assert np.full((2,), 3.0).device == "gpu:1"
    assert np.zeros(2).device == "cpu"


def test_a_device_can_be_set_for_the_whole_process(gpus: list[FakeGpu]) -> None:
    assert shoal.set_device("gpu") == "gpu:0"
    assert np.zeros(2).device == "gpu:0"
    with pytest.raises(ConfigError, match="'gpu:2' does not exist: this process sees 2 GPUs"):
        shoal.set_device("gpu:2")


def test_a_tensor_stays_where_it_is_and_an_array_of_the_host_goes_to_the_current_device(gpus: list[FakeGpu]) -> None:
    x = np.ones(3, device="gpu:1")
    with shoal.gpu(0):
        assert np.array(x).device == "gpu:1" and np.array(numpy.ones(3)).device == "gpu:0"


def test_tensors_are_moved_by_the_words_of_three_libraries(gpus: list[FakeGpu]) -> None:
    x = np.array([1.0, 2.0])
    for moved in (x.to("gpu:1"), x.to(device="cuda:1"), x.cuda(1), x.as_in_ctx(shoal.gpu(1)), x.to_device("gpu:1")):
        assert moved.device == moved.ctx == moved.context == "gpu:1" and moved.cpu().tolist() == [1.0, 2.0]
    assert x.to("cpu") is x and x.to("float16").dtype == "float16"
    both = x.to("gpu:0", "float16")
    assert both.device == "gpu:0" and both.dtype == "float16"
    assert x.to(both).device == "gpu:0" and x.to(both).dtype == "float16"
    assert x.to("gpu:0").to("gpu:1").tolist() == [1.0, 2.0]


def test_an_operator_on_two_devices_is_named_with_both(gpus: list[FakeGpu]) -> None:
    x, y, z = np.ones((2, 3)), np.ones(3, device="gpu:0"), np.ones(3, device="gpu:1")
    with pytest.raises(
        DeviceError, match=r"add: .* \(2, 3\) float32 on cpu, \(3,\) float32 on gpu:0.*x\.to\('gpu:0'\)"
    ):
        _ = x + y
    with pytest.raises(DeviceError, match=r"multiply: .*gpu:0, .*gpu:1"):
        _ = y * z


def test_numbers_and_tensors_without_axes_mix_with_every_device(gpus: list[FakeGpu]) -> None:
    x = np.ones(3, device="gpu:0")
    assert (x * 2.0 + np.array(1.0)).tolist() == [3.0, 3.0, 3.0]
    assert (x + numpy.float32(1.0)).device == "gpu:0"


def test_operators_run_where_their_inputs_are_whatever_device_is_current(gpus: list[FakeGpu]) -> None:
    x = np.ones(3, device="gpu:1")
    x.attach_grad()
    with shoal.gpu(0), autograd.record():
        y = (np.exp(x) * x).sum()
    y.backward()
    assert y.device == "gpu:1" and x.grad.device == "gpu:1"
    numpy.testing.assert_allclose(x.grad.asnumpy(), numpy.full(3, 2 * numpy.e), rtol=1e-6)


def test_a_model_is_made_and_trained_on_a_gpu(gpus: list[FakeGpu]) -> None:
    rng = numpy.random.default_rng(0)
    data, labels = rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 3, 8)

    def trained(device: str) -> list[float]:
        shoal.random.seed(3)
        net = nn.HybridSequential(nn.Dense(7, "relu"), nn.Dropout(0.5), nn.LayerNorm(), nn.Dense(3))
        net.initialize(shoal.init.Xavier(), device=device, seed=1)
        trainer = shoal.Trainer(net.collect_params(), "adam", {"learning_rate": 0.01}, kvstore=None)
        shoal.random.seed(1)
        losses = []
        for _ in range(4):
            with shoal.Device(device), autograd.record():
                loss = nn.SoftmaxCrossEntropyLoss()(net(np.array(data)), np.array(labels))
                loss.backward()
                trainer.step(8)
            losses.append(float(loss.mean().item()))
        assert {p.data().device for p in net.collect_params().values()} == {device}
        return losses

    numpy.testing.assert_allclose(trained("gpu:1"), trained("cpu"), rtol=1e-5)


def test_a_model_moves_with_its_gradients(gpus: list[FakeGpu]) -> None:
    net = nn.Dense(2, in_units=3)
    net.initialize(ctx=[shoal.cpu()])
    weight = net.weight.data()
    net.to("gpu:0")
    assert net.weight.data() is weight and weight.device == "gpu:0" == weight.grad.device == net.weight.device
    net.reset_ctx(shoal.gpu(1))
    assert net(np.ones((1, 3), device="gpu:1")).device == "gpu:1"
    assert net.cpu().weight.device == "cpu" and net.cuda(1).weight.device == "gpu:1"


def test_a_parameter_that_waits_for_its_shape_is_made_on_its_device(gpus: list[FakeGpu]) -> None:
    net = nn.Dense(2)
    with shoal.gpu(1):
        net.initialize()
    assert net.weight.device == "gpu:1"
    assert net(np.ones((1, 3), device="gpu:1")).device == "gpu:1"


def test_several_devices_for_one_model_are_several_processes() -> None:
    with pytest.raises(ConfigError, match=r"start a process for each, as with `shoal run --device gpu -n 2`"):
        nn.Dense(2, in_units=3).initialize(ctx=[shoal.gpu(0), shoal.gpu(1)])
    assert as_device([shoal.cpu()]) == "cpu" and as_device(None) is None


def test_each_worker_has_the_gpu_of_its_rank(gpus: list[FakeGpu]) -> None:
    assert [of_worker("gpu", rank) for rank in range(4)] == ["gpu:0", "gpu:1", "gpu:0", "gpu:1"]
    assert of_worker("gpu:1", 0) == "gpu:1" and of_worker("cpu", 3) == "cpu"


def test_a_model_without_a_device_is_where_it_always_was() -> None:
    net = nn.Dense(2, in_units=3)
    net.initialize()
    assert net.weight.device == "cpu" and isinstance(net.weight.data().data, numpy.ndarray)


def test_memory_streams_and_waiting_have_pytorchs_names(gpus: list[FakeGpu]) -> None:
    from shoal import cuda

    assert cuda.is_available() and cuda.device_count() == 2
    x = np.ones(1000, device="gpu:1")
    assert cuda.memory_allocated(1) == cuda.memory_allocated("gpu:1") == 4096 and cuda.memory_allocated() == 0
    assert cuda.max_memory_allocated(1) == cuda.memory_reserved(1) == cuda.memory_stats(1)["used_bytes"] == 4096
    assert cuda.mem_get_info(1)[0] == cuda.mem_get_info(1)[1] - 4096
    cuda.synchronize(1)
    assert gpus[1].pending() == 0 and x.shape == (1000,)
    del x
    cuda.empty_cache(1)
    assert cuda.memory_reserved(1) == 0
    with cuda.Stream(1, priority=-1) as stream:
        assert cuda.current_stream(1) is stream and stream.priority == -1


def test_a_run_on_gpus_tells_its_workers_and_the_default_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.commands.values import device

    assert [device(t) for t in ("cpu", "gpu", "gpu:1", "cuda:0")] == ["cpu", "gpu", "gpu:1", "cuda:0"]
    for text in ("gpu:", "tpu", "gpu:x"):
        with pytest.raises(Exception, match="expected cpu, gpu or gpu:1"):
            device(text)
