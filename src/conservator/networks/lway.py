"""The networks of LWay (Chen et al., "Low-Res Leads the Way", CVPR 2024): what a small photo went through, done again.

The encoder sums up how a small photo was degraded. The reconstructor makes a small photo again of a large picture, as a
code says. As in DegAE (CVPR 2023), which LWay uses, the blocks of the reconstructor are modulated by the code.

What is ours: LWay enlarges the small photo and compares at the large size, and its reconstructor is a network alone.
Here the large picture is blurred by an elliptic Gaussian that follows from the code, reduced by the very bicubic
reduction that upscalers are trained on, and only what is left to explain is for the network. So a photo that was
reduced and nothing else is made again almost exactly, and adapting to it changes next to nothing: with a network alone,
what it could not explain of such photos (aliasing) spoilt them by up to 5 dB (Set14, November 2026). A free kernel
instead of a Gaussian collapsed to a point, since the network could imitate blur after the reduction. Blur is measured
in pixels of the small photo, so that one encoder serves every scale.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.image import Image
from conservator.resample import bicubic_to

_LEAK = 0.1
CODE = 64
"""Numbers that sum up a degradation; DegAE has 512, of frozen features."""
_WIDEST = 6
"""Small pixels from the centre of a blur kernel to its edge: over 3 deviations of the strongest that is learned."""
_POINT = 0.25
"""Large pixels of deviation that every kernel has, for the gradient of a point would be zero; it blurs by 0.1 %."""
_TOLD = 0.002, 0.05
"""By which the numbers of blur and noise are multiplied where they are taught, beside errors of pixels from 0 to 1.

The loss is the logarithm of the error plus a floor. With factors this small the floor is the larger of the two, and the
loss is nearly the squared error. With larger ones it was lowest for a network that is exactly right on the many photos
that were only reduced, and far off on all others.
"""


_SHOWN = 2
"""Sides of what shows a degradation, by those of the small photo that is made again. A whole photo tells more than the
crops of a training do: taught by larger ones, the encoder shrinks less towards the mean where it is unsure."""


class DegradationEncoder(nn.Module):
    """Maps small photos (B, 3, H, W) to codes (B, CODE): what was done to them, whatever they show.

    It is given what is finer than three pixels beside the photo, and eight times as strong: without that it learned
    nothing in a thousand steps but the mean of all degradations.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(6, 32, 3, padding=1), nn.LeakyReLU(_LEAK)]
        before = 32
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.LeakyReLU(_LEAK)]
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(_LEAK)]
            before = width
        self.look = nn.Sequential(*layers)
        self.sum_up = nn.Sequential(nn.Linear(2 * before, 192), nn.LeakyReLU(_LEAK), nn.Linear(192, CODE))
        _begin(self)

    def forward(self, photo: Image) -> Tensor:
        fine = photo - F.avg_pool2d(F.pad(photo, (1, 1, 1, 1), mode="replicate"), 3, 1)
        maps = self.look(torch.cat([photo - 0.5, 8 * fine], 1)).flatten(2).float()
        summed: Tensor = self.sum_up(torch.cat([maps.mean(2), maps.std(2)], 1))
        return summed


def _begin(network: nn.Module) -> None:
    """Weights that neither shrink nor swell what passes (He et al. 2015); PyTorch's own shrink it at every layer."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=_LEAK)
            nn.init.zeros_(cast("Tensor", layer.bias))


class _Modulated(nn.Module):
    """Two convolutions whose channels a code scales and shifts, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = nn.Linear(CODE, 2 * width)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.modulate(code)[..., None, None].chunk(2, 1)
        y = F.leaky_relu(self.first(x) * (1 + scale) + shift, _LEAK)
        out: Tensor = x + self.second(y)
        return out


class Reconstructor(nn.Module):
    """Makes small photos of large pictures, as codes (B, CODE) say."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.blur, self.noise = (nn.Sequential(nn.LeakyReLU(_LEAK), nn.Linear(CODE, 3)) for _ in "bn")
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(_Modulated(width) for _ in range(depth))
        self.leave = nn.Conv2d(width, 3, 3, padding=1)
        for head in (self.blur, self.noise):
            _begin(head)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast("Tensor", self.leave.bias))

    def spread(self, code: Tensor) -> Tensor:
        """The blur before the reduction that codes tell of: (B, 3) numbers a, b, c, in pixels of the small photo.

        The square of the symmetric matrix ((a, c), (c, b)) is the covariance of the kernel in x and y.
        """
        told: Tensor = self.blur(code).float()
        return told

    def deviation(self, code: Tensor) -> Tensor:
        """The noise that codes tell of, JPEG's among it: deviations (B, 3) of red, green and blue, of pixels 0 to 1."""
        told: Tensor = self.noise(code).float()
        return told

    def kernels(self, spread: Tensor, scale: int) -> Tensor:
        """The same as kernels (B, K, K) of large pictures, ``scale`` times as large; each sums to 1."""
        a, b, c = (scale * spread).unbind(1)
        covariance = torch.stack((a * a + c * c, c * (a + b), c * (a + b), b * b + c * c), 1).unflatten(1, (2, 2))
        covariance = covariance + _POINT**2 * torch.eye(2, device=spread.device)
        reach = _WIDEST * scale
        x = torch.arange(-reach, reach + 1, dtype=torch.float32, device=spread.device)
        place = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1).flatten(0, 1)
        distance = torch.einsum("ki,bij,kj->bk", place, torch.linalg.inv(covariance), place)
        kernels: Tensor = (-0.5 * distance).softmax(1).unflatten(1, (len(x), len(x)))
        return kernels

    def reduced(self, picture: Image, code: Tensor, scale: int, trust: float = 1.0) -> Image:
        """Pictures (B, 3, H * scale, W * scale) blurred, and reduced to (B, 3, H, W).

        ``trust`` is how much of the deviation of the blur that a code tells of is believed.
        """
        height, width = (side // scale for side in picture.shape[-2:])
        # not taught by what it does: of what was only reduced a point is exactly right, and none leads away from that
        kernels = self.kernels(trust * self.spread(code).detach(), scale)
        return bicubic_to(convolve_each(picture, kernels), height, width)

    def forward(self, picture: Image, code: Tensor, scale: int, trust: float = 1.0) -> Image:
        small = self.reduced(picture, code, scale, trust)
        x = self.enter(small)
        for block in self.body:
            x = block(x, code)
        again: Tensor = small + self.leave(x)
        return again


def convolve_each(image: Image, kernels: Tensor) -> Image:
    """Correlate every picture (B, C, H, W) with a kernel of its own (B, K, K), K odd, the borders repeated.

    By Fourier transforms: of a kernel this large that is ten times as fast as a convolution of each channel.
    """
    reach = kernels.shape[-1] // 2
    height, width = image.shape[-2:]
    padded = F.pad(image.float(), (reach,) * 4, mode="replicate")
    size = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels[:, None].float(), s=size).conj()
    blurred: Image = torch.fft.irfft2(spectrum, s=size)[..., :height, :width]
    return blurred


class DegradationTransfer(nn.Module):
    """Encoder and reconstructor, as they are trained: a large picture made small in the way another photo was.

    Takes what ``lesson`` lays together (B, 12 + 3 * scale ** 2, H, W); gives three times as many pictures
    (3 * B, 3, H, W), of each the small photo, its blur and its noise, as ``answer`` lays them together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.reconstructor = DegradationEncoder(), Reconstructor()

    def forward(self, lesson: Tensor) -> Tensor:
        shown, picture = lesson.split((3 * _SHOWN**2, lesson.shape[1] - 3 * _SHOWN**2), 1)
        scale = round((picture.shape[1] / 3) ** 0.5)
        code = self.encoder(F.pixel_shuffle(shown, _SHOWN))
        small = self.reconstructor(F.pixel_shuffle(picture, scale), code, scale)
        return answer(small, self.reconstructor.spread(code), self.reconstructor.deviation(code))


def lesson(shown: Image, picture: Image) -> Tensor:
    """Lay photos (B, 3, 2 * H, 2 * W) that show a degradation and pictures (B, 3, H * scale, W * scale) together."""
    scale = _SHOWN * picture.shape[-1] // shown.shape[-1]
    return torch.cat([F.pixel_unshuffle(shown, _SHOWN), F.pixel_unshuffle(picture, scale)], 1)


def answer(small: Image, spread: Tensor, deviation: Tensor) -> Tensor:
    """Lay small photos (B, 3, H, W) and the numbers of blur and noise (B, 3) together: pictures (3 * B, 3, H, W)."""
    numbers = (scale * told for scale, told in zip(_TOLD, (spread, deviation), strict=True))
    return torch.stack([small, *(x[..., None, None].expand_as(small) for x in numbers)], 1).flatten(0, 1)
