"""Changes of images as blocks, with Gluon's names: for `Dataset.transform_first`, or in front of a model.

Images are (height, width, channels), or a batch of them, until `ToTensor`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import image, jitter, random
from shoal.ops.nn.block import Block
from shoal.ops.nn.container import HybridSequential, Sequential
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.tensor import Tensor

__all__ = [
    "Cast",
    "CenterCrop",
    "Compose",
    "CropResize",
    "HybridCompose",
    "Normalize",
    "RandomApply",
    "RandomBrightness",
    "RandomColorJitter",
    "RandomContrast",
    "RandomCrop",
    "RandomFlipLeftRight",
    "RandomFlipTopBottom",
    "RandomGray",
    "RandomHue",
    "RandomLighting",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSaturation",
    "Resize",
    "Rotate",
    "ToTensor",
]

Size = int | Sequence[int]


def _tensor(x: Any) -> Any:
    return Tensor(x) if isinstance(x, np.ndarray) else x


class Compose(Sequential):
    """Changes one after the other.

    Args:
        transforms: blocks.
    """

    def __init__(self, transforms: Sequence[Block] = ()) -> None:
        super().__init__(*transforms)


class HybridCompose(HybridSequential):
    """Changes one after the other, all of which can be part of a graph."""

    def __init__(self, transforms: Sequence[HybridBlock] = ()) -> None:
        super().__init__(*transforms)


class _Change(HybridBlock):
    """A function of an image and what was given to the constructor."""

    def __init__(self, function: Callable[..., Any], **given: Any) -> None:
        super().__init__()
        self._function, self._given = function, given

    def forward(self, x: Any) -> Any:
        """Apply the change."""
        return self._function(_tensor(x), **self._given)

    def extra_repr(self) -> str:
        """What was given."""
        return ", ".join(f"{name}={value!r}" for name, value in self._given.items())


class Cast(HybridBlock):
    """Another dtype."""

    def __init__(self, dtype: Any = "float32") -> None:
        super().__init__()
        self.dtype = np.dtype(dtype).name

    def forward(self, x: Any) -> Any:
        """Apply the change."""
        return _tensor(x).astype(self.dtype)


class ToTensor(_Change):
    """(height, width, channels) from 0 to 255 to (channels, height, width), float32 from 0 to 1."""

    def __init__(self) -> None:
        super().__init__(image.to_tensor)


class Normalize(_Change):
    """(x - mean) / std, channel by channel, behind `ToTensor`."""

    def __init__(self, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> None:
        super().__init__(image.normalize, mean=mean, std=std)


class Resize(_Change):
    """Another height and width; see `shoal.image.resize`.

    Args:
        size: a number, or (width, height).
        keep_ratio: a number is the length of the shorter side.
        interpolation: 0 nearest, 1 bilinear, 2 bicubic, 3 area.
    """

    def __init__(self, size: Size, keep_ratio: bool = False, interpolation: int | str = 1) -> None:
        super().__init__(image.resize, size=size, keep_ratio=keep_ratio, interp=interpolation)


class CenterCrop(_Change):
    """The middle, enlarged if the image is smaller than ``size``."""

    def __init__(self, size: Size, interpolation: int | str = 1) -> None:
        super().__init__(image.center_crop, size=size, interp=interpolation)


class CropResize(_Change):
    """A part of the image, brought to ``size`` if there is one."""

    def __init__(
        self, x: int, y: int, width: int, height: int, size: Size | None = None, interpolation: int | str = 1
    ) -> None:
        super().__init__(image.resized_crop, x=x, y=y, width=width, height=height, size=size, interp=interpolation)


class RandomCrop(_Change):
    """A part of the image from anywhere in it.

    Args:
        size: a number, or (width, height).
        pad: zeros that are put around the image before.
    """

    def __init__(self, size: Size, pad: int | None = None, interpolation: int | str = 1) -> None:
        super().__init__(jitter.random_crop, size=size, pad=pad or 0, interp=interpolation)


class RandomResizedCrop(_Change):
    """A part of random area and proportions, brought to ``size``.

    Args:
        size: a number, or (width, height).
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height.
    """

    def __init__(
        self,
        size: Size,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0),
        interpolation: int | str = 1,
    ) -> None:
        super().__init__(jitter.random_resized_crop, size=size, scale=scale, ratio=ratio, interp=interpolation)


class RandomFlipLeftRight(_Change):
    """Mirrored with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(jitter.random_flip_left_right, p=p)


class RandomFlipTopBottom(_Change):
    """Upside down with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(jitter.random_flip_top_bottom, p=p)


class RandomGray(_Change):
    """Without colours with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(jitter.random_gray, p=p)


class _Factor(_Change):
    """A factor from 1 - s to 1 + s."""

    def __init__(self, function: Callable[..., Any], strength: float) -> None:
        if strength < 0:
            raise ConfigError(f"{type(self).__name__}: {strength} is negative")
        super().__init__(function, min_factor=max(0.0, 1.0 - strength), max_factor=1.0 + strength)


class RandomBrightness(_Factor):
    """Brightness times 1 - s to 1 + s."""

    def __init__(self, brightness: float) -> None:
        super().__init__(jitter.random_brightness, brightness)


class RandomContrast(_Factor):
    """Contrast times 1 - s to 1 + s."""

    def __init__(self, contrast: float) -> None:
        super().__init__(jitter.random_contrast, contrast)


class RandomSaturation(_Factor):
    """Saturation times 1 - s to 1 + s."""

    def __init__(self, saturation: float) -> None:
        super().__init__(jitter.random_saturation, saturation)


class RandomHue(_Factor):
    """Hue turned by up to s of a whole round, either way."""

    def __init__(self, hue: float) -> None:
        super().__init__(jitter.random_hue, hue)


class RandomColorJitter(_Change):
    """Brightness, contrast, saturation and hue changed at random, in this order."""

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        super().__init__(
            jitter.random_color_jitter, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
        )


class RandomLighting(_Change):
    """Colours moved along the principal components of ImageNet's, by normal numbers times ``alpha``."""

    def __init__(self, alpha: float) -> None:
        super().__init__(jitter.random_lighting, alpha_std=alpha)


class Rotate(_Change):
    """Turned counter-clockwise, behind `ToTensor`.

    Args:
        rotation_degrees: the angle.
        zoom_in, zoom_out: so that nothing comes from outside, or that all of the image is there.
    """

    def __init__(self, rotation_degrees: float, zoom_in: bool = False, zoom_out: bool = False) -> None:
        super().__init__(image.rotate, rotation_degrees=rotation_degrees, zoom_in=zoom_in, zoom_out=zoom_out)


class RandomRotation(Block):
    """Turned by an angle between two, behind `ToTensor`.

    Args:
        angle_limits: smallest and largest, in degrees.
        zoom_in, zoom_out: as of `Rotate`.
        rotate_with_proba: probability that it is turned at all.
    """

    def __init__(
        self,
        angle_limits: tuple[float, float],
        zoom_in: bool = False,
        zoom_out: bool = False,
        rotate_with_proba: float = 1.0,
    ) -> None:
        super().__init__()
        if angle_limits[0] > angle_limits[1] or not 0 <= rotate_with_proba <= 1:
            raise ConfigError(f"RandomRotation: {angle_limits=}, {rotate_with_proba=}")
        self.limits, self.zoom_in, self.zoom_out = angle_limits, zoom_in, zoom_out
        self.probability = rotate_with_proba

    def forward(self, x: Any) -> Any:
        """Apply the change."""
        draw = random.generator("image")
        if draw.random() >= self.probability:
            return _tensor(x)
        return image.rotate(_tensor(x), float(draw.uniform(*self.limits)), self.zoom_in, self.zoom_out)


class RandomApply(Block):
    """A change that happens with probability p.

    Args:
        transforms: a block, or several one after the other.
    """

    def __init__(self, transforms: Block | Sequence[Block], p: float = 0.5) -> None:
        super().__init__()
        self.transforms = transforms if isinstance(transforms, Block) else Sequential(*transforms)
        self.p = p

    def forward(self, x: Any) -> Any:
        """Apply the change, or not."""
        return self.transforms(_tensor(x)) if random.generator("image").random() < self.p else _tensor(x)
