"""The networks of LWay (Chen et al., "Low-Res Leads the Way", CVPR 2024): what degraded a photo, done again to another.

The encoder sums up how a low-resolution photo, enlarged to the size wanted, was degraded. The reconstructor does the
same to a picture of that size. As in DegAE (CVPR 2023), which LWay uses, its blocks are modulated by the code; what is
ours is that the code also gives a blur kernel, applied first, because most of what an enlarged photo lacks is a blur.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = 64
"""Numbers that sum up a degradation; of 64 a first trial needed no more (DegAE has 512, of frozen features)."""
KERNEL = 25
"""Pixels of a side of the blur kernel: the blur of a 4 times reduction and of 2.4 small pixels before it."""


class DegradationEncoder(nn.Module):
    """Maps enlarged photos (B, 3, H, W) to codes (B, CODE): what was done to them, whatever they show."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        before = 12
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.LeakyReLU(0.1)]
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
            before = width
        self.look = nn.Sequential(*layers)
        self.sum_up = nn.Sequential(nn.Linear(2 * before, 192), nn.LeakyReLU(0.1), nn.Linear(192, CODE))

    def forward(self, image: Tensor) -> Tensor:
        maps = self.look(image).flatten(2)
        summed: Tensor = self.sum_up(torch.cat([maps.mean(2), maps.std(2)], 1))
        return summed


class _Modulated(nn.Module):
    """Two convolutions whose channels a code scales and shifts, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = nn.Linear(CODE, 2 * width)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.modulate(code)[..., None, None].chunk(2, 1)
        y = F.leaky_relu(self.first(x) * (1 + scale) + shift, 0.1)
        out: Tensor = x + self.second(y)
        return out


class Reconstructor(nn.Module):
    """Degrades pictures (B, 3, H, W), H and W even, as codes (B, CODE) say; the size stays."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.blur = nn.Sequential(nn.Linear(CODE, 256), nn.LeakyReLU(0.1), nn.Linear(256, 2 * KERNEL**2 + 1))
        self.enter = nn.Conv2d(24, width, 3, padding=1)
        self.body = nn.ModuleList(_Modulated(width) for _ in range(depth))
        self.leave = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        distance = torch.linspace(-(KERNEL // 2), KERNEL // 2, KERNEL)
        near = -0.5 * (distance[:, None] ** 2 + distance**2).flatten()
        self.register_buffer("near", near, persistent=False)

    def kernels(self, code: Tensor) -> Tensor:
        """The blur kernels (B, KERNEL, KERNEL) of codes; each sums to 1, and may be negative around its peak."""
        positive, negative, share = self.blur(code).split([KERNEL**2, KERNEL**2, 1], 1)
        share = 0.3 * share.sigmoid()  # a bicubic kernel has an eighth of negative weight at most
        kernel = (1 + share) * (positive + self.near).softmax(1) - share * (negative + self.near / 9).softmax(1)
        return kernel.unflatten(1, (KERNEL, KERNEL))

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        blurred = convolve_each(image, self.kernels(code.float()))
        x = self.enter(F.pixel_unshuffle(torch.cat([image, blurred], 1), 2))
        for block in self.body:
            x = block(x, code)
        degraded: Tensor = blurred + F.pixel_shuffle(self.leave(x), 2)
        return degraded


def convolve_each(image: Tensor, kernels: Tensor) -> Tensor:
    """Correlate every picture (B, C, H, W) with a kernel of its own (B, K, K), K odd, the borders repeated.

    By Fourier transforms: of a kernel this large that is ten times as fast as a convolution of each channel.
    """
    reach = kernels.shape[-1] // 2
    height, width = image.shape[-2:]
    padded = F.pad(image.float(), (reach,) * 4, mode="replicate")
    size = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels[:, None].float(), s=size).conj()
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


class DegradationTransfer(nn.Module):
    """Encoder and reconstructor as they are trained: (B, 6, H, W), a picture and a degraded other one, to (B, 3, H, W).

    The picture is degraded as the other one was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.reconstructor = DegradationEncoder(), Reconstructor()

    def forward(self, pair: Tensor) -> Tensor:
        picture, other = pair.split(3, 1)
        degraded: Tensor = self.reconstructor(picture, self.encoder(other))
        return degraded

