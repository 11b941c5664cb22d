"""A photo with everything its file carries, read from a file.

JPEG, PNG, WebP, TIFF, BMP, GIF (the first frame) and, where Pillow has it, AVIF are read and written; HEIC and camera
RAW are read, with their extras. 8 and 16 bits per channel, gray, palette, transparency, CMYK. RGB and gray values are
taken as they are and their colour profile is kept; CMYK and Lab are converted to sRGB, CMYK with a profile back again
on writing.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import ImageError, PhotoError
from conservator.image import Image, check_image, to_image
from conservator.photo.carried import Block
from conservator.photo.color import color_space, profile_name
from conservator.photo.meta import has_thumbnail, patched_exif, still_xmp, with_prefix
from conservator.photo.optional import EXTRA_OF
from conservator.photo.quantisation import JpegTables
from conservator.photo.read import FORMATS, Decoded, decode
from conservator.photo.write import WRITABLE
from conservator.resample import bicubic_to

PHOTO_SUFFIXES = frozenset(suffix for suffix, form in WRITABLE.items() if form.name in FORMATS)
"""Suffixes of the files that can be read and written, lower case, with the dot."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo and what its file carries."""

    image: Image
    """(1, 3, H, W), upright, straight (not multiplied with alpha)."""
    alpha: Tensor | None = None
    """(1, 1, H, W) float32 in [0, 1]; None when the file has no transparency."""
    bit_depth: int = 8
    """8 or 16: the bits per channel it is written with, where the format can."""
    gray: bool = False
    """The source has a single colour channel; it is written so again, where the format can."""
    neutral: bool = False
    """Every pixel of the source is a gray; whatever is done to it, the photo stays so."""
    mode: str = "RGB"
    """Pillow's name for the source's pixels: "RGB", "CMYK", "P", "I;16"..."""
    icc: bytes | None = None
    exif: bytes | None = None
    """Behind the six bytes ``Exif\\0\\0``, with orientation 1."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    format: str = "PNG"
    lossless: bool = True
    """The source lost nothing in compression; then WebP is written without loss, too."""
    path: Path | None = None
    notes: tuple[str, ...] = ()
    """Plain sentences on what had to change on the way in."""
    frames: int = 1
    """Pages or frames in the file, of which this is one."""
    whole: bool = True
    """The file was not damaged or cut off."""
    blocks: tuple[Block, ...] = ()
    """What the source's format alone holds and results of that format take over: captions, comments, texts."""
    lost: tuple[str, ...] = ()
    """In words, what else the file holds and no result can: further pages, a video, a signature. A file that holds such
    a thing is never replaced by its own result."""
    jpeg: JpegTables | None = None
    """How coarsely a JPEG was rounded; None for other files, for one that had to be turned upright, whose blocks lie
    elsewhere now, and for one that stores neither gray nor YCbCr."""

    def with_image(self, image: Image) -> Photo:
        """Return this photo with another image; alpha is resized to it, and where the photo is gray, the image made so.

        Raises ImageError for what is no image.
        """
        check_image(image)
        if image.shape[0] != 1:
            raise ImageError(f"expected one image, got a batch of {image.shape[0]}")
        image = grayed(image) if self.gray or self.neutral else image
        return replace(self, image=image, alpha=None if self.alpha is None else _resized(self.alpha, image))

    def working_image(self) -> Image:
        """Return what a tool should see: colour multiplied with alpha, so that what is invisible cannot bleed out."""
        return self.image if self.alpha is None else self.image * self.alpha

    def with_working_image(self, restored: Image) -> Photo:
        """Return this photo with a restored working image, alpha divided out again.

        Pixels that the restoration left alone, or that are invisible, keep their colour exactly. Raises ImageError for
        what is no image.
        """
        if self.alpha is None:
            return self.with_image(restored)
        check_image(restored)
        alpha, before = _resized(self.alpha, restored), _resized(self.image, restored)
        kept = (alpha == 0) | (restored == before * alpha).all(dim=1, keepdim=True)
        straight = (restored / alpha.clamp(min=1 / 65535)).clamp(0, 1)
        return self.with_image(torch.where(kept, before, straight))


def load_photo(path: str | os.PathLike[str], *, max_pixels: int = 200_000_000, allow_truncated: bool = False) -> Photo:
    """Read a photo.

    ``max_pixels`` is checked before a pixel is decoded. ``allow_truncated`` takes what a cut-off or damaged file still
    gives. Raises PhotoError, one sentence with the file and the reason, for whatever cannot be read.
    """
    path = Path(path)
    try:
        decoded = _decode_file(path, max_pixels, allow_truncated)
        return _to_photo(decoded, path)
    except PhotoError as error:
        raise PhotoError(f"cannot read {path}: {error}") from error
    except MemoryError as error:
        raise PhotoError(f"cannot read {path}: it needs more memory than there is") from error


def _decode_file(path: Path, max_pixels: int, allow_truncated: bool) -> Decoded:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError("it is a folder, expected a file")
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError("it is not a regular file")
        if status.st_size == 0:
            raise PhotoError("the file is empty")
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise PhotoError(reason_of(error)) from error
    with file:
        try:
            return decode(file, max_pixels, lenient=False)
        except (PhotoError, MemoryError):
            raise
        except Exception as error:  # decoders raise whatever they like
            if not allow_truncated:
                raise PhotoError(f"it is damaged or cut off ({reason_of(error)})") from error
        try:
            file.seek(0)
            decoded = decode(file, max_pixels, lenient=True)
        except (PhotoError, MemoryError):
            raise
        except Exception as error:
            raise PhotoError(f"it is damaged beyond reading ({reason_of(error)})") from error
        decoded.notes.append("the file is damaged or cut off: what could be read was read")
        decoded.carried.told.append("what could not be read of it")
        decoded.whole = False
        return decoded


def reason_of(error: BaseException) -> str:
    """What a decoder, an encoder or the system says went wrong, as a part of a sentence."""
    said = error.args[0] if error.args and isinstance(error.args[0], bytes) else b""  # LibRaw's
    text = said.decode("utf-8", "replace") or (error.strerror if isinstance(error, OSError) else None) or str(error)
    text = text or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def _to_photo(decoded: Decoded, path: Path) -> Photo:
    pixels, notes = _upright(decoded.pixels, decoded.orientation), decoded.notes
    channels = pixels.shape[2]
    gray = channels < 3
    image = to_image(pixels[..., 0] if gray else pixels[..., :3])
    alpha = to_image(pixels[..., -1])[:, :1].contiguous() if channels in (2, 4) else None
    if decoded.orientation != 1:
        notes.append(f"turned upright (EXIF orientation {decoded.orientation})")
    if decoded.icc and decoded.mode not in ("CMYK", "LAB"):
        name = profile_name(decoded.icc)
        if name is None:
            notes.append("kept its colour profile, which cannot be read")
        elif "srgb" not in name.lower():
            notes.append(f'kept its colour profile "{name}": the values are its own, not sRGB')
    exif = _checked_exif(decoded, image)
    _note_carried(decoded, path, notes)
    return Photo(
        image=image,
        alpha=alpha,
        bit_depth=8 * pixels.dtype.itemsize,
        gray=gray,
        neutral=gray or bool((image == image[:, :1]).all()),
        mode=decoded.mode,
        icc=None if decoded.mode == "LAB" else decoded.icc,
        exif=exif,
        xmp=still_xmp(decoded.xmp) if decoded.xmp else None,
        dpi=_checked_dpi(decoded.dpi),
        format=decoded.format,
        lossless=decoded.lossless,
        path=path,
        notes=tuple(notes),
        frames=decoded.frames,
        whole=decoded.whole,
        blocks=tuple(decoded.carried.blocks),
        lost=tuple(dict.fromkeys(decoded.carried.lost + decoded.carried.told)),
        jpeg=decoded.jpeg if decoded.orientation == 1 else None,
    )


def _note_carried(decoded: Decoded, path: Path, notes: list[str]) -> None:
    """Say what a result will not hold, and when the file is not what its name says."""
    carried = decoded.carried
    if decoded.exif and has_thumbnail(decoded.exif):
        carried.outdated.append("a thumbnail")
    if decoded.mode == "LAB" or (decoded.mode == "CMYK" and color_space(decoded.icc) != "CMYK"):
        carried.told.append(f"its {'Lab' if decoded.mode == 'LAB' else decoded.mode} values")
    notes += carried.notes()
    suffix = path.suffix.lower()
    named = (
        WRITABLE[suffix].name if suffix in WRITABLE else {"heif": "HEIF", "raw": "RAW"}.get(EXTRA_OF.get(suffix, ""))
    )
    if named is not None and named != decoded.format:
        notes.append(f"its name ends in {path.suffix}, but it is a {decoded.format} file")


def _upright(pixels: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """Apply an EXIF orientation: from 5 on rows and columns change places; then what lies backwards is turned round."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _checked_exif(decoded: Decoded, image: Image) -> bytes | None:
    """The EXIF block of the upright photo; None where there is none, or too damaged a one."""
    if not decoded.exif or not with_prefix(decoded.exif)[6:]:
        return None
    try:
        return patched_exif(decoded.exif, image.shape[-1], image.shape[-2])
    except ValueError:
        decoded.notes.append("its EXIF data is damaged and was dropped")
        decoded.carried.told.append("its damaged EXIF data")
        return None


def _checked_dpi(dpi: object) -> tuple[float, float] | None:
    """Return the resolution when it makes sense, None for the zeros and infinities that some files hold."""
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    x, y = (float(d) for d in dpi)
    return (x, y) if all(math.isfinite(d) and 1 <= d <= 30000 for d in (x, y)) else None


def grayed(image: Image) -> Image:
    """The mean of the three channels in each of them; a pixel that is gray stays exactly as it is."""
    r, g, b = image.split(1, dim=1)
    mean: Tensor = r + ((g - r) + (b - r)) / 3
    return mean.clamp(0, 1).expand(-1, 3, -1, -1).contiguous()


def _resized(tensor: Tensor, like: Image) -> Tensor:
    if tensor.shape[-2:] == like.shape[-2:]:
        return tensor
    return bicubic_to(tensor, like.shape[-2], like.shape[-1])
