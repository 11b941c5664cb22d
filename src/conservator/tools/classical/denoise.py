"""Denoisers. All are blind: the noise is measured first, and an image without noise comes back as it is."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.image import Image
from conservator.kinds import Kind
from conservator.tools.classical.basics import from_opponent, to_opponent
from conservator.tools.classical.measuring import MeasuringTool
from conservator.tools.classical.noise_level import estimate_sigma
from conservator.tools.classical.shrinkage import shrink_dct
from conservator.tools.tool import ToolSpec

_INVISIBLE = 0.5 / 255
"""Noise below half a level of 8 bits is left alone."""


class _Denoiser(MeasuringTool[Tensor]):
    """Measures the noise of the whole photo on its three opponent axes, (3,), and hands both on."""

    def measure(self, image: Image) -> Tensor | None:
        sigma = estimate_sigma(image)[0]
        return sigma if float(sigma.max()) >= _INVISIBLE else None

    def treat(self, image: Image, found: Tensor) -> Image:
        return from_opponent(self.denoise(to_opponent(image)[0], found)[None])

    @abstractmethod
    def denoise(self, planes: Tensor, sigma: Tensor) -> Tensor:
        """Denoise three opponent planes (3, H, W) with white noise of deviations ``sigma`` (3,)."""


class DctDenoise(_Denoiser):
    """Thresholding and Wiener shrinkage of overlapping DCT blocks."""

    spec = ToolSpec(
        name="dct_denoise",
        removes=frozenset({Kind.NOISE}),
        description="Removes grain and sensor noise of any strength, keeping edges and texture.",
        source="Yu, Sapiro, DCT image denoising, IPOL 2011; Pierazzo et al., Multi-scale DCT denoising, IPOL 2017",
        license="Apache-2.0",
        tile=1024,
        overlap=64,  # the two passes reach 14 pixels
    )

    def denoise(self, planes: Tensor, sigma: Tensor) -> Tensor:
        return shrink_dct(planes[:, None], sigma.view(3, 1, 1, 1))[:, 0]


class NlmDenoise(_Denoiser):
    """Non-local means of scikit-image, all channels weighted jointly."""

    spec = ToolSpec(
        name="nlm_denoise",
        removes=frozenset({Kind.NOISE}),
        description="Averages similar patches to remove noise; strong on repeated patterns and smooth areas.",
        source="Buades, Coll, Morel, A non-local algorithm for image denoising, CVPR 2005 (scikit-image)",
        license="Apache-2.0",
        tile=1024,
        overlap=64,  # patches reach 7 pixels
    )

    def denoise(self, planes: Tensor, sigma: Tensor) -> Tensor:
        from skimage.restoration import denoise_nl_means

        strength = float(sigma.square().mean().sqrt())
        pixels = planes.permute(1, 2, 0).contiguous().numpy()
        result: NDArray[np.float32] = denoise_nl_means(
            pixels, patch_size=5, patch_distance=5, h=0.6 * strength, sigma=strength, fast_mode=True, channel_axis=-1
        )
        return torch.from_numpy(result).permute(2, 0, 1)


class TvDenoise(_Denoiser):
    """Total variation after Chambolle, of scikit-image, all channels jointly."""

    spec = ToolSpec(
        name="tv_denoise",
        removes=frozenset({Kind.NOISE}),
        description="Removes noise by flattening areas between edges; fast, may look painted on fine texture.",
        source="Chambolle, An algorithm for total variation minimization, JMIV 2004 (scikit-image)",
        license="Apache-2.0",
        tile=None,  # it stops when the energy of the whole hardly falls
    )

    def denoise(self, planes: Tensor, sigma: Tensor) -> Tensor:
        from skimage.restoration import denoise_tv_chambolle

        weight = 1.2 * float(sigma.square().mean().sqrt())
        pixels = planes.permute(1, 2, 0).contiguous().numpy()
        result: NDArray[np.float32] = denoise_tv_chambolle(pixels, weight=weight, max_num_iter=30, channel_axis=-1)
        return torch.from_numpy(result).permute(2, 0, 1)


class WaveletDenoise(_Denoiser):
    """BayesShrink of each wavelet band on every opponent axis, averaged over a few shifts of the wavelet grid."""

    spec = ToolSpec(
        name="wavelet_denoise",
        removes=frozenset({Kind.NOISE}),
        description="Removes light to moderate noise by wavelet shrinkage; the gentlest and fastest of the denoisers.",
        source="Chang, Yu, Vetterli, Adaptive wavelet thresholding for image denoising and compression, IEEE TIP 2000",
        license="Apache-2.0",
        tile=None,  # its thresholds are those of the bands of the whole
    )
    _shifts = ((0, 0), (1, 2), (2, 1), (3, 3))

    def denoise(self, planes: Tensor, sigma: Tensor) -> Tensor:
        import pywt

        levels = int(np.clip(np.log2(min(planes.shape[-2:])) - 3, 1, 5))
        total = torch.zeros_like(planes)
        for shift in self._shifts:
            moved = planes.roll(shift, dims=(1, 2)).numpy()
            coarse, *details = pywt.wavedec2(moved, "sym4", level=levels, axes=(1, 2))
            details = [tuple(_bayes_shrink(band, sigma.numpy()) for band in level) for level in details]
            smooth = pywt.waverec2([coarse, *details], "sym4", axes=(1, 2))
            cropped = torch.from_numpy(smooth[:, : planes.shape[1], : planes.shape[2]])
            total += cropped.roll((-shift[0], -shift[1]), dims=(1, 2))
        return total / len(self._shifts)


def _bayes_shrink(band: NDArray[np.float32], sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft-threshold a band of wavelet coefficients (3, h, w): at noise variance over the deviation of the signal."""
    noise = np.square(sigma)[:, None, None]
    signal = np.sqrt(np.maximum(np.mean(np.square(band), axis=(1, 2), keepdims=True) - noise, 1e-12))
    shrunk: NDArray[np.float32] = np.sign(band) * np.maximum(np.abs(band) - noise / signal, 0)
    return shrunk.astype(np.float32)
