"""Deblurring by an estimated kernel: filters undo the blur, roughly, and a network makes one good picture of theirs.

The kernel is found on the whole photo, as by the classical tools; where noise or JPEG hides it, on a copy that another
expert has cleaned. A Wiener filter trusts one strength of noise in all of the photo; the network sees three strengths
beside the photo, and takes from each what is good (as Dong et al., "Deep Wiener Deconvolution", NeurIPS 2020, do with
features). The network then has neither to find the blur in a patch nor to learn how each of thousands of kernels is
undone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.kinds import Kind
from conservator.networks.store import NetworkStore
from conservator.tools.classical.blur_model import BlurModel, Family, estimate_blur, transfer_function
from conservator.tools.classical.deblur import filtered, periodic, settled
from conservator.tools.classical.kernels import DEFOCUS, GAUSSIAN, MOTION
from conservator.tools.experts import Expert, Shipped, WeightsSource, make_spec
from conservator.tools.tool import Tool, ToolSpec

_NOISES = (1e-3, 1e-2, 1e-1)
"""Power of the noise over that of the scene at the highest frequency, as the three filters assume it; it rises with the
square of the frequency, since scenes fall so."""
_CLEANERS = Shipped("denoise_medium"), Shipped("dejpeg_severe")
"""They clean the copies on which a kernel is looked for, too. With noise of sigma 25 on a motion of 15 pixels none is
found on a photo, and on the denoised copy the right one on 7 photos of 10 (CID22_val, November 2026)."""


def views(image: Image, kernel: Tensor) -> Tensor:
    """Photos (B, 3, H, W) and what three Wiener filters make of them, (B, 12, H, W), clamped to -0.5 to 1.5.

    ``kernel`` is that of a BlurModel.
    """
    height, width = image.shape[-2:]
    extended = periodic(image, 2 * kernel.shape[-1])
    rows, columns = extended.shape[-2:]
    transfer = transfer_function(kernel, rows, columns).to(image.device)
    down, across = torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)[None]
    rising = (4 * (down.square() + across.square())).to(image.device)
    gains = (transfer.conj() / (transfer.abs().square() + noise * rising).clamp_min(1e-6) for noise in _NOISES)
    made = [filtered(extended, gain)[..., :height, :width].clamp(-0.5, 1.5) for gain in gains]
    return torch.cat([image, *made], 1)


class Deblur(Expert):
    """Finds the kernel of a photo in some families, and undoes it; a photo that no kernel explains stays as it is."""

    def __init__(
        self,
        spec: ToolSpec,
        families: Sequence[Family],
        weights: WeightsSource,
        networks: NetworkStore | None = None,
    ) -> None:
        """``networks`` is where it takes its networks from; without it, it has a store of its own."""
        super().__init__(spec, "unet_deblur", weights, networks)
        self._families = families
        self._cleaners: tuple[nn.Module, ...] = ()
        self._kernel: Tensor | None = None

    def setup(self, device: str) -> None:
        """Load its network, and those that clean the copies."""
        networks = self._networks or NetworkStore()
        self._model = self.network(networks, device)
        self._cleaners = tuple(networks.load("unet", c.sha256, c.tensors, device) for c in _CLEANERS)

    def fitted(self, image: Image) -> Tool:
        """Find the kernel."""
        found = self.find(image)
        if found is None:
            return _Unchanged(self.spec)
        fit = copy.copy(self)
        fit._kernel = found.kernel
        return fit

    def find(self, image: Image) -> BlurModel | None:
        """The kernel of a photo (1, 3, H, W), sides multiples of 16, and what it leaves unexplained; None where no
        kernel explains it."""
        for copy_ in self._copies(image):
            models = (estimate_blur(copy_, family) for family in self._families)
            explained = [model for model in models if model is not None]
            if explained:
                return settled(min(explained, key=lambda model: model.misfit), copy_)
        return None

    def _copies(self, image: Image) -> Iterator[Image]:
        yield image.cpu()
        for cleaner in self._cleaners:
            device = next(cleaner.parameters()).device
            yield cleaner(image.to(device)).clamp(0, 1).cpu()

    def restore(self, image: Image) -> Image:
        if self._model is None or self._kernel is None:
            raise ConservatorError(f"{self.spec.name} looks at a whole photo first; call the tool, or fitted(photo)")
        device = next(self._model.parameters()).device
        seen = (views(item.to(device), self._kernel) for item in image.split(1))
        return torch.cat([self._model(x.contiguous(memory_format=torch.channels_last)) for x in seen]).contiguous()


EXPERT_DEBLUR = Deblur(
    make_spec(
        "deblur",
        frozenset({Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR, Kind.GAUSSIAN_BLUR}),
        "Undoes motion and lack of focus whose kernel can be found, also where noise or JPEG lies on top.",
        "unet_deblur",
    ),
    (MOTION, DEFOCUS, GAUSSIAN),
    Shipped("deblur"),
)
"""A tool of the toolboxes where the manifest lists its weights."""


class _Unchanged(Tool):
    """Gives the photo back."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    def restore(self, image: Image) -> Image:
        return image
