"""The networks of LWay (Chen et al., "Low-Res Leads the Way", CVPR 2024): what a small photo went through, done again.

The encoder sums up how a small photo was degraded. The reconstructor makes a small photo again of a large picture, as a
code says. As in DegAE (CVPR 2023), which LWay uses, the blocks of the reconstructor are modulated by the code.

What is ours: LWay enlarges the small photo and compares at the large size, and its reconstructor is a network alone.
Here the large picture is blurred by a kernel that follows from the code, reduced by the very bicubic reduction that
upscalers are trained on, and only what is left to explain is for the network. So a photo that was reduced and nothing
else is made again exactly, and adapting to it changes nothing: with a network alone, what it could not explain of such
photos (aliasing) spoilt them by up to 5 dB (Set14, November 2026).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.resample import bicubic_to

CODE = 64
"""Numbers that sum up a degradation; DegAE has 512, of frozen features."""
KERNEL = 25
"""Pixels of a side of the blur kernel, at the large size."""


class DegradationEncoder(nn.Module):
    """Maps small photos (B, 3, H, W), H and W even, to codes (B, CODE): what was done to them, whatever they show."""

    def __init__(self, widths: tuple[int, ...] = (48, 96, 160)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.LeakyReLU(0.1)]
        before = 32
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.LeakyReLU(0.1)]
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
            before = width
        self.look = nn.Sequential(*layers)
        self.sum_up = nn.Sequential(nn.Linear(2 * before, 192), nn.LeakyReLU(0.1), nn.Linear(192, CODE))

    def forward(self, photo: Tensor) -> Tensor:
        maps = self.look(photo).flatten(2)
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
    """Makes small photos (B, 3, H, W) of large pictures (B, 3, H * scale, W * scale), as codes (B, CODE) say."""

    def __init__(self, scale: int, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.blur = nn.Sequential(nn.Linear(CODE, 256), nn.LeakyReLU(0.1), nn.Linear(256, KERNEL**2))
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(_Modulated(width) for _ in range(depth))
        self.leave = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        distance = torch.linspace(-(KERNEL // 2), KERNEL // 2, KERNEL)
        near = -0.5 * (distance[:, None] ** 2 + distance**2).flatten()
        self.register_buffer("near", near, persistent=False)

    def kernels(self, code: Tensor) -> Tensor:
        """The blur kernels (B, KERNEL, KERNEL) of codes, not negative, each of sum 1."""
        kernel: Tensor = (self.blur(code) + self.near).softmax(1)
        return kernel.unflatten(1, (KERNEL, KERNEL))

    def reduced(self, picture: Tensor, kernels: Tensor) -> Tensor:
        """Pictures blurred by kernels (B, KERNEL, KERNEL), and reduced."""
        height, width = (side // self.scale for side in picture.shape[-2:])
        return bicubic_to(convolve_each(picture, kernels), height, width)

    def forward(self, picture: Tensor, code: Tensor) -> Tensor:
        small = self.reduced(picture, self.kernels(code).float())
        x = self.enter(small)
        for block in self.body:
            x = block(x, code)
        again: Tensor = small + self.leave(x)
        return again


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
    """Encoder and reconstructor as they are trained: (B, 6, H * scale, W * scale) to small photos (B, 3, H, W).

    The first three channels are a large picture; in the corner of the others lies a small photo, (B, 3, H, W), that
    shows how the picture is to be degraded.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.encoder, self.reconstructor = DegradationEncoder(), Reconstructor(scale)

    def forward(self, pair: Tensor) -> Tensor:
        picture, other = pair.split(3, 1)
        height, width = (side // self.reconstructor.scale for side in pair.shape[-2:])
        small: Tensor = self.reconstructor(picture, self.encoder(other[..., :height, :width]))
        return small
