"""The one image convention.

An image is a float32 tensor of shape (B, 3, H, W), sRGB, values in [0, 1].
B is 1 except in studies, training and pools.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import ImageError

Image: TypeAlias = Tensor


def check_image(image: Image) -> Image:
    """Return ``image`` unchanged, or raise ImageError that says which part of the convention it breaks."""
    if not isinstance(image, Tensor):
        raise ImageError(f"expected a torch tensor, got {type(image).__name__}; use to_image for a NumPy array")
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise ImageError(f"expected shape (B, 3, H, W) without empty sides, got {tuple(image.shape)}")
    if image.dtype != torch.float32:
        raise ImageError(f"expected float32, got {image.dtype}")
    low, high = (float(v) for v in torch.aminmax(image))
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ImageError(f"expected finite values in [0, 1], got [{low:.3f}, {high:.3f}]")
    return image


def to_image(array: NDArray[np.generic]) -> Image:
    """Make an image (1, 3, H, W) from an array (H, W, 3) or (H, W): uint8, uint16, or floating in [0, 1]."""
    a = np.asarray(array)
    if a.ndim == 2:
        a = np.repeat(a[..., None], 3, axis=2)
    if a.ndim != 3 or a.shape[2] != 3:
        raise ImageError(f"expected an array of shape (H, W, 3) or (H, W), got {a.shape}")
    if a.dtype == np.uint8 or a.dtype == np.uint16:
        f = a.astype(np.float32) / np.float32(np.iinfo(a.dtype).max)
    elif np.issubdtype(a.dtype, np.floating):
        f = a.astype(np.float32)
    else:
        raise ImageError(f"expected uint8, uint16 or floating values, got {a.dtype}")
    return check_image(torch.from_numpy(np.ascontiguousarray(f.transpose(2, 0, 1)))[None])


def to_array(
    image: Image, dtype: type[np.uint8] | type[np.uint16] | type[np.float32] = np.float32
) -> NDArray[np.generic]:
    """Make an array (H, W, 3) from an image (1, 3, H, W), rounded to the nearest level for the integer types."""
    if image.shape[0] != 1:
        raise ImageError(f"expected one image, got a batch of {image.shape[0]}")
    a = image[0].detach().cpu().permute(1, 2, 0).numpy()
    if dtype is np.float32:
        return np.ascontiguousarray(a)
    levels: NDArray[np.generic] = np.rint(np.clip(a, 0, 1) * (65535 if dtype is np.uint16 else 255)).astype(dtype)
    return levels


def in_8_bits(image: Image) -> Image:
    """The image as a file of 8 bits a channel would give it back."""
    return (image.clamp(0, 1) * 255).round() / 255


def luma(image: Image) -> Tensor:
    """Full-range BT.601 luma, (B, 1, H, W) in [0, 1]."""
    r, g, b = image.unbind(1)
    return (0.299 * r + 0.587 * g + 0.114 * b)[:, None]


def digest(tensor: Tensor) -> str:
    """Content hash (sha256 hex) of a tensor of any type and shape; equal ones only where type, shape and values are."""
    data = tensor.detach().cpu().contiguous()
    about = (tuple(data.shape), str(data.dtype).removeprefix("torch."))
    found = hashlib.sha256(repr(about).encode())
    found.update(data.reshape(-1).view(torch.uint8).numpy().data)  # bytes, because NumPy has no bfloat16
    return found.hexdigest()


def decibels(error: Tensor, cap: float) -> Tensor:
    """PSNR in dB of mean square errors of images in [0, 1], any shape; at most ``cap``, which no error gives."""
    return (-10 * error.log10()).clamp(max=cap)
