"""Images and their changes, against PyTorch, colorsys and definitions."""

import colorsys
from typing import Any

import numpy as onp
import pytest
import torch
import torch.nn.functional as F

from shoal import autograd, data, nn, random
from shoal.data import transforms as T
from shoal.errors import ConfigError, GraphError, ShapeError
from shoal.npx import image
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor


def picture(*shape: int, dtype: Any = "uint8") -> Any:
    rng = onp.random.default_rng(sum(shape))
    return rng.integers(0, 256, shape).astype(dtype) if dtype == "uint8" else rng.random(shape).astype(dtype)


SMALL = picture(5, 7, 3)


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 5, 7, 3), (5, 7, 1)])
def test_to_tensor_puts_channels_first_and_scales(shape: tuple[int, ...]) -> None:
    x = picture(*shape)
    found = image.to_tensor(x)
    assert found.dtype == "float32"
    onp.testing.assert_allclose(found.asnumpy(), onp.moveaxis(x, -1, -3) / 255.0, rtol=1e-6)


def test_normalize_is_by_channel() -> None:
    x = picture(2, 3, 5, 7, dtype="float32")
    mean, std = onp.array([0.1, 0.2, 0.3]), onp.array([0.5, 0.6, 0.7])
    expected = (x - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
    onp.testing.assert_allclose(image.normalize(Tensor(x), mean, std).asnumpy(), expected, rtol=1e-5)
    onp.testing.assert_allclose(image.normalize(Tensor(x[0]), 0.5, 2.0).asnumpy(), (x[0] - 0.5) / 2.0, rtol=1e-5)


@pytest.mark.parametrize(("interp", "mode"), [(0, "nearest"), (1, "bilinear"), (2, "bicubic"), (3, "area")])
@pytest.mark.parametrize("size", [(9, 4), (3, 11), (7, 5)])
def test_resize_is_pytorchs(size: tuple[int, int], interp: int, mode: str) -> None:
    for x in (picture(2, 5, 7, 3, dtype="float32"), picture(5, 7, 3)):
        batch = torch.tensor(x if x.ndim == 4 else x[None]).movedim(-1, 1).float()
        expected = F.interpolate(batch, size[::-1], mode=mode).movedim(1, -1).numpy()
        expected = expected if x.ndim == 4 else onp.clip(onp.rint(expected[0]), 0, 255)
        found = image.resize(Tensor(x), size, interp=interp)
        assert found.dtype == x.dtype
        difference = onp.abs(found.asnumpy().astype("float64") - expected)
        assert difference.max() < (1e-5 if x.ndim == 4 else 1.01) and (difference > 0.5).mean() < 0.01


def test_resize_keeps_proportions_and_may_smooth() -> None:
    assert image.resize(Tensor(picture(10, 20, 3)), 5, keep_ratio=True).shape == (5, 10, 3)
    assert image.resize(Tensor(picture(20, 10, 3)), 5, keep_ratio=True).shape == (10, 5, 3)
    assert image.resize(Tensor(picture(20, 10, 3)), 5).shape == (5, 5, 3)
    x = picture(12, 9, 3, dtype="float32")
    expected = F.interpolate(torch.tensor(x).movedim(-1, 0)[None], (5, 4), mode="bilinear", antialias=True)[0]
    found = image.resize(Tensor(x), (4, 5), antialias=True)
    onp.testing.assert_allclose(found.asnumpy(), expected.movedim(0, -1).numpy(), rtol=1e-5)


def test_crops_and_flips() -> None:
    x = picture(6, 8, 3)
    assert onp.array_equal(image.crop(x, 1, 2, 4, 3).asnumpy(), x[2:5, 1:5])
    assert onp.array_equal(image.center_crop(x, (4, 2)).asnumpy(), x[2:4, 2:6])
    assert image.center_crop(x, 10).shape == (10, 10, 3)
    assert onp.array_equal(image.flip_left_right(x).asnumpy(), x[:, ::-1])
    assert onp.array_equal(image.flip_top_bottom(x[None]).asnumpy(), x[None, ::-1])
    assert image.resized_crop(x, 1, 2, 4, 3, (5, 7)).shape == (7, 5, 3)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_right_angles_turn_squares_exactly(angle: int) -> None:
    x = picture(3, 6, 6, dtype="float32")
    found = image.rotate(Tensor(x), angle).asnumpy()
    onp.testing.assert_allclose(found, onp.rot90(x, angle // 90, axes=(1, 2)), atol=1e-5)


def test_zooming_out_keeps_all_and_zooming_in_shows_nothing_from_outside() -> None:
    x = onp.ones((1, 1, 21, 31), "float32")
    assert image.rotate(Tensor(x), 30, zoom_in=True).asnumpy().min() > 0.999
    corners = image.rotate(Tensor(x), 30, zoom_out=True).asnumpy()
    assert corners[0, 0, 0, 0] == 0 and corners[0, 0, 10, 15] == 1
    with pytest.raises(ConfigError, match="exclude"):
        image.rotate(Tensor(x), 30, True, True)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_colours(dtype: str) -> None:
    x = picture(5, 7, 3, dtype=dtype)
    wide = x.astype("float64")
    gray = wide @ onp.array([0.299, 0.587, 0.114])
    for found, expected in (
        (image.adjust_brightness(x, 1.3), wide * 1.3),
        (image.adjust_contrast(x, 0.4), wide * 0.4 + gray.mean() * 0.6),
        (image.adjust_saturation(x, 1.5), wide * 1.5 - gray[..., None] * 0.5),
        (image.to_gray(x), onp.repeat(gray[..., None], 3, -1)),
    ):
        if dtype == "uint8":
            expected = onp.clip(onp.rint(expected), 0, 255)
        assert found.dtype == dtype
        onp.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-5, atol=1e-5 if dtype == "float32" else 1)
    assert image.to_gray(x, 1).shape == (5, 7, 1)


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.3, 0.5])
def test_hue_turns_as_in_colorsys(turn: float) -> None:
    x = picture(4, 6, 3, dtype="float64")
    x[0, 0] = 0.5  # gray has no hue
    expected = onp.empty_like(x)
    for at in onp.ndindex(4, 6):
        h, s, v = colorsys.rgb_to_hsv(*x[at])
        expected[at] = colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)
    onp.testing.assert_allclose(image.adjust_hue(Tensor(x), turn).asnumpy(), expected, atol=1e-12)


def test_lighting_moves_along_principal_components() -> None:
    x = onp.full((2, 2, 3), 100.0, "float32")
    found = image.adjust_lighting(x, [0.1, 0.0, 0.0]).asnumpy() - 100.0
    onp.testing.assert_allclose(found[0, 0], 5.546 * onp.array([-0.5675, -0.5808, -0.5836]), rtol=1e-4)


JITTERS = {
    "flip_left_right": lambda x: image.random_flip_left_right(x),
    "flip_top_bottom": lambda x: image.random_flip_top_bottom(x),
    "gray": lambda x: image.random_gray(x),
    "brightness": lambda x: image.random_brightness(x, 0.5, 1.5),
    "contrast": lambda x: image.random_contrast(x, 0.5, 1.5),
    "saturation": lambda x: image.random_saturation(x, 0.5, 1.5),
    "hue": lambda x: image.random_hue(x, 0.5, 1.5),
    "jitter": lambda x: image.random_color_jitter(x, 0.4, 0.4, 0.4, 0.1),
    "lighting": lambda x: image.random_lighting(x, 0.1),
    "crop": lambda x: image.random_crop(x, (4, 3)),
    "crop with a border": lambda x: image.random_crop(x, 5, pad=2),
    "resized crop": lambda x: image.random_resized_crop(x, (4, 3)),
}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", JITTERS)
def test_what_is_drawn_depends_on_the_address_only(name: str, dtype: str) -> None:
    x, seen = Tensor(picture(6, 8, 3, dtype=dtype)), []
    for _ in range(2):
        random.set_address(seed=5, worker=0, step=3)
        seen.append([JITTERS[name](x) for _ in range(12)])
    assert all(a.dtype == dtype and onp.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(*seen, strict=True))
    assert any(not onp.array_equal(a.asnumpy(), seen[0][0].asnumpy()) for a in seen[0])


@pytest.mark.parametrize("name", [n for n in JITTERS if n != "resized crop"])
def test_a_graph_draws_what_eager_calls_draw(name: str) -> None:
    x = Tensor(picture(6, 8, 3, dtype="float32"))
    compiled = Compiled(JITTERS[name], "changed")
    compiled(x)
    random.set_address(seed=5, worker=0, step=3)
    expected = [JITTERS[name](x).asnumpy() for _ in range(4)]
    random.set_address(seed=5, worker=0, step=3)
    for e in expected:
        onp.testing.assert_allclose(compiled(x).asnumpy(), e, rtol=1e-5, atol=1e-6)


def test_random_sizes_are_no_part_of_a_graph() -> None:
    with pytest.raises(GraphError, match="random"):
        Compiled(JITTERS["resized crop"], "changed")(Tensor(SMALL))


def test_a_random_crop_is_a_part_of_the_image_from_every_place() -> None:
    x, corners = onp.arange(16.0).reshape(4, 4, 1), set()
    for step in range(60):
        random.set_address(seed=1, step=step)
        found = image.random_crop(x, 3).asnumpy()
        corner = int(found[0, 0, 0])
        assert onp.array_equal(found, x[corner // 4 :, corner % 4 :][:3, :3])
        corners.add(corner)
    assert corners == {0, 1, 4, 5}


def test_a_random_resized_crop_has_the_area_and_the_proportions_that_are_asked_for() -> None:
    x = onp.stack(onp.meshgrid(onp.arange(100.0), onp.arange(80.0)), -1)
    for step in range(20):
        random.set_address(seed=1, step=step)
        found = image.random_resized_crop(x, (300, 300), scale=(0.2, 0.5), ratio=(0.5, 2.0)).asnumpy()
        w, h = (onp.ptp(found[..., i]) + 1 for i in (0, 1))
        assert 0.18 < w * h / 8000 < 0.53 and 0.45 < w / h < 2.2
    assert image.random_resized_crop(x, 10, scale=(1.0, 1.0), ratio=(9.0, 9.0)).shape == (10, 10, 2)


# -- as blocks

CHANGES: list[nn.Block] = [
    T.Resize((4, 6)),
    T.CenterCrop(4),
    T.CropResize(1, 2, 3, 3, 5),
    T.RandomCrop(4, pad=1),
    T.RandomResizedCrop(4),
    T.RandomFlipLeftRight(),
    T.RandomFlipTopBottom(1.0),
    T.RandomGray(),
    T.RandomBrightness(0.3),
    T.RandomContrast(0.3),
    T.RandomSaturation(0.3),
    T.RandomHue(0.1),
    T.RandomColorJitter(0.1, 0.1, 0.1, 0.1),
    T.RandomLighting(0.1),
    T.RandomApply(T.RandomHue(0.1)),
    T.RandomApply([T.RandomHue(0.1), T.Resize(3)]),
    T.Cast("float64"),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: type(c).__name__)
def test_every_change_takes_arrays_and_tensors_and_can_be_printed(change: nn.Block) -> None:
    for x in (SMALL, Tensor(SMALL), Tensor(SMALL[None])):
        assert isinstance(change(x), Tensor)
    assert type(change).__name__ in repr(change)


def test_a_chain_ends_with_a_normalized_tensor_and_can_be_a_graph() -> None:
    chain = T.HybridCompose(
        [T.Resize(6), T.RandomFlipLeftRight(1.0), T.ToTensor(), T.Normalize(0.5, 0.25), T.Rotate(90)]
    )
    eager = chain(SMALL).asnumpy()
    assert eager.shape == (3, 6, 6) and eager.dtype == "float32"
    chain.hybridize()
    onp.testing.assert_allclose(chain(Tensor(SMALL)).asnumpy(), eager, rtol=1e-5, atol=1e-6)
    turned = T.Compose([T.ToTensor(), T.RandomRotation((-20, 20), zoom_in=True)])(SMALL)
    assert turned.shape == (3, 5, 7)
    never = T.RandomRotation((5, 6), rotate_with_proba=0.0)(picture(3, 4, 4, dtype="float32"))
    assert onp.array_equal(never.asnumpy(), picture(3, 4, 4, dtype="float32"))


def test_data_sets_take_changes() -> None:
    images, labels = picture(10, 6, 8, 3), onp.arange(10)
    changed = data.ArrayDataset(images, labels).transform_first(T.Compose([T.RandomCrop(5), T.ToTensor()]))
    batches = list(data.DataLoader(changed, 5))
    assert [tuple(x.shape) for x, _ in batches] == [(5, 3, 5, 5)] * 2


def test_gradients_go_through() -> None:
    x = Tensor(picture(6, 8, 3, dtype="float32"))
    x.attach_grad()
    with autograd.record():
        image.adjust_hue(image.resize(x, 5), 0.2).sum().backward()
    assert x.grad is not None and onp.isfinite(x.grad.asnumpy()).all() and x.grad.asnumpy().any()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: image.to_tensor(SMALL[0]), ShapeError, r"\(7, 3\)"),
        (lambda: image.adjust_hue(SMALL[..., :2], 0.1), ShapeError, r"\(5, 7, 2\)"),
        (lambda: image.normalize(Tensor(picture(3, 5, 7, dtype="float32")), (1, 2)), ShapeError, "3 channels"),
        (lambda: image.crop(SMALL, 4, 0, 4, 4), ShapeError, "x=4"),
        (lambda: image.resize(SMALL, 5, interp=4), ConfigError, "interp=4"),
        (lambda: image.resize(SMALL, 0), ConfigError, "not positive"),
        (lambda: image.random_flip_left_right(SMALL, 1.5), ConfigError, r"p=1\.5"),
        (lambda: image.random_brightness(SMALL, 1.5, 0.5), ConfigError, r"1\.5 to 0\.5"),
        (lambda: image.random_resized_crop(SMALL, 4, scale=(0.0, 1.0)), ConfigError, "scale"),
        (lambda: T.RandomBrightness(-1.0), ConfigError, "negative"),
        (lambda: T.RandomRotation((5, 4)), ConfigError, "angle_limits"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
