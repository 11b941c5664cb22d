"""Learned distances to a reference, through optional packages: LPIPS, DISTS and ST-LPIPS. Lower is better.

``lpips`` and ``dists`` download an ImageNet backbone at first use (their packages do, into torch's hub folder).
``st_lpips`` ships everything in its package and works offline; its scores are not LPIPS scores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

from conservator.errors import MissingExtraError
from conservator.image import Image
from conservator.metrics.fidelity import check_pair

_SMALLEST = 32  # pixels a side, what AlexNet's strides need


def lpips(image: Image, reference: Image) -> float:
    """LPIPS v0.1 with AlexNet (Zhang et al., 2018), pyiqa's default; NaN below 32 pixels a side.

    Raises MissingExtraError when the package or its backbone is missing, ImageError when the sizes differ.
    """
    return _distance(_lpips_network, image, reference, rescale=True)


def dists(image: Image, reference: Image) -> float:
    """DISTS with VGG16 (Ding et al., 2020) at full resolution; NaN below 32 pixels a side.

    Raises MissingExtraError when the package or its backbone is missing, ImageError when the sizes differ.
    """
    return _distance(_dists_network, image, reference, rescale=False)


def st_lpips(image: Image, reference: Image) -> float:
    """ST-LPIPS, shift tolerant, with AlexNet (Ghildyal and Liu, 2022); NaN below 32 pixels a side. Not LPIPS.

    Raises MissingExtraError when the package is missing, ImageError when the sizes differ.
    """
    return _distance(_st_lpips_network, image, reference, rescale=True)


def _distance(network: Callable[[], nn.Module], image: Image, reference: Image, *, rescale: bool) -> float:
    check_pair(image, reference)
    model = network()
    if min(image.shape[-2:]) < _SMALLEST:
        return math.nan
    pair = [x * 2 - 1 if rescale else x for x in (image.cpu(), reference.cpu())]
    with torch.inference_mode():
        return float(model(*pair))


@cache
def _lpips_network() -> nn.Module:
    with _explained("lpips", extra="perceptual"):
        from lpips import LPIPS

        model: nn.Module = LPIPS(net="alex", verbose=False).eval()
    return model


@cache
def _dists_network() -> nn.Module:
    with _explained("dists", extra="perceptual"):
        import DISTS_pytorch

        model: nn.Module = DISTS_pytorch.DISTS(load_weights=False).eval()
        # the package looks for its weights in sys.prefix, where pip does not always put them; they are beside its code
        weights = torch.load(
            Path(DISTS_pytorch.__file__).with_name("weights.pt"), map_location="cpu", weights_only=True
        )
        model.load_state_dict(weights, strict=False)  # the backbone is loaded already
    return model


@cache
def _st_lpips_network() -> nn.Module:
    with _explained("st_lpips", extra="stlpips"):
        from stlpips_pytorch.stlpips import LPIPS

        model: nn.Module = LPIPS(net="alex", variant="shift_tolerant", verbose=False).eval()
    return model


@contextmanager
def _explained(metric: str, *, extra: str) -> Iterator[None]:
    """Turn what can go wrong while a package is imported and its network is built into a MissingExtraError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's deprecations, which only these packages can mend
            yield
    except ImportError as error:
        raise MissingExtraError(
            f"metric {metric} needs an optional package ({error}); pip install 'conservator[{extra}]'"
        ) from error
    except URLError as error:
        raise MissingExtraError(
            f"metric {metric} could not download its backbone ({error.reason}); go online once, or copy the file into "
            f"{torch.hub.get_dir()}/checkpoints"
        ) from error
    except RuntimeError as error:
        if "torchvision" not in str(error):
            raise
        raise MissingExtraError(
            f"metric {metric} needs a torchvision that pairs with torch {torch.__version__} ({error}); "
            "install both from the same index"
        ) from error
