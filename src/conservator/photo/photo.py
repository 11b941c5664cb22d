"""A photo with everything its file carries: read from a file, written back without losing what the format can hold.

Reads and writes JPEG, PNG, WebP, TIFF, BMP, GIF (the first frame) and, where Pillow has it, AVIF; 8 and 16 bits per
channel, gray, palette, transparency, CMYK. RGB and gray values are taken as they are and their colour profile is kept;
CMYK and Lab are converted to sRGB, CMYK with a profile back again on writing.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import ImageError, PhotoError
from conservator.files import replacing
from conservator.image import Image, check_image, to_array, to_image
from conservator.photo.color import color_space, from_srgb, is_srgb, profile_name, to_srgb
from conservator.photo.meta import described_exif, patched_exif, upright_xmp, with_prefix
from conservator.photo.read import FORMATS, Decoded, decode
from conservator.photo.write import WRITABLE, Format, Page, encode, to_pillow
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
    """The source has a single colour channel; it is written as gray again if it is still gray."""
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
    """Pages or frames in the file, of which this is the first."""
    whole: bool = True
    """The file was not damaged or cut off."""
    own: bytes = b""
    """Captions and comments as the source's format alone stores them: IPTC of a JPEG or TIFF, texts of a PNG."""

    def with_image(self, image: Image) -> Photo:
        """Return this photo with another image; alpha is resized to it. Raises ImageError for what is no image."""
        check_image(image)
        if image.shape[0] != 1:
            raise ImageError(f"expected one image, got a batch of {image.shape[0]}")
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


def save_photo(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    quality: int = 95,
    protect: Path | None = None,
) -> tuple[str, ...]:
    """Write a photo in the format of the suffix; return plain sentences on what that format could not hold.

    The file appears at once and whole, or not at all. An existing file, the photo's own source above all, is replaced
    only with ``overwrite``, and not where it holds more pages than the one that was read; the file ``protect`` never.
    ``quality`` (1 to 100) is for JPEG, WebP and AVIF; WebP is written without loss when the photo came from a file
    without loss. Raises PhotoError, one sentence with the file and the reason.
    """
    path = Path(path)
    try:
        form = _form(path)
        _check_target(photo, path, form, overwrite, protect)
        if not 1 <= quality <= 100:
            raise PhotoError(f"quality is {quality}, expected 1 to 100")
        notes: list[str] = []
        page = _to_page(photo, form, notes)
        with replacing(path) as file:
            encode(file, page, form, quality=quality, lossless=photo.lossless)
    except PhotoError as error:
        raise PhotoError(f"cannot write {path}: {error}") from error
    except MemoryError as error:
        raise PhotoError(f"cannot write {path}: it needs more memory than there is") from error
    except Exception as error:  # encoders raise whatever they like
        raise PhotoError(f"cannot write {path}: {_reason(error)}") from error
    return tuple(notes)


def copy_photo(photo: Photo, path: str | os.PathLike[str], *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a photo that was left as it came: its file, byte for byte, where the suffix names its format.

    Another format, or what could be read of a damaged file, is written as ``save_photo`` does. Returns and raises what
    that does.
    """
    path, source = Path(path), photo.path
    if source is None or not photo.whole or WRITABLE.get(path.suffix.lower(), _NO_FORMAT).name != photo.format:
        return save_photo(photo, path, overwrite=overwrite)
    try:
        _check_place(photo, path, overwrite, None)
        if not (path.exists() and path.samefile(source)):
            with source.open("rb") as original, replacing(path) as file:
                shutil.copyfileobj(original, file)
    except (PhotoError, OSError) as error:
        raise PhotoError(f"cannot write {path}: {_reason(error)}") from error
    return ("the file was copied, byte for byte",)


_NO_FORMAT = Format("none")


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
        raise PhotoError(_reason(error)) from error
    with file:
        try:
            return decode(file, max_pixels, lenient=False)
        except (PhotoError, MemoryError):
            raise
        except Exception as error:  # decoders raise whatever they like
            if not allow_truncated:
                raise PhotoError(f"it is damaged or cut off ({_reason(error)})") from error
        try:
            file.seek(0)
            decoded = decode(file, max_pixels, lenient=True)
        except (PhotoError, MemoryError):
            raise
        except Exception as error:
            raise PhotoError(f"it is damaged beyond reading ({_reason(error)})") from error
        decoded.notes.append("the file is damaged or cut off: what could be read was read")
        decoded.whole = False
        return decoded


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
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
    return Photo(
        image=image,
        alpha=alpha,
        bit_depth=8 * pixels.dtype.itemsize,
        gray=gray,
        mode=decoded.mode,
        icc=None if decoded.mode == "LAB" else decoded.icc,
        exif=_checked_exif(decoded.exif, image, notes),
        xmp=upright_xmp(decoded.xmp) if decoded.xmp else None,
        dpi=_checked_dpi(decoded.dpi),
        format=decoded.format,
        lossless=decoded.lossless,
        path=path,
        notes=tuple(notes),
        frames=decoded.frames,
        whole=decoded.whole,
        own=decoded.own,
    )


def _upright(pixels: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """Apply an EXIF orientation: from 5 on rows and columns change places; then what lies backwards is turned round."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _checked_exif(exif: bytes | None, image: Image, notes: list[str]) -> bytes | None:
    if not exif or not with_prefix(exif)[6:]:
        return None
    try:
        return patched_exif(exif, image.shape[-1], image.shape[-2])
    except ValueError:
        notes.append("its EXIF data is damaged and was dropped")
        return None


def _checked_dpi(dpi: object) -> tuple[float, float] | None:
    """Return the resolution when it makes sense, None for the zeros and infinities that some files hold."""
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    x, y = (float(d) for d in dpi)
    return (x, y) if all(math.isfinite(d) and 1 <= d <= 30000 for d in (x, y)) else None


def _form(path: Path) -> Format:
    suffix = path.suffix.lower()
    if suffix not in PHOTO_SUFFIXES:
        names = " ".join(sorted(PHOTO_SUFFIXES))
        raise PhotoError(f"its suffix {path.suffix!r} names no format that can be written; take one of {names}")
    return WRITABLE[suffix]


def _check_target(photo: Photo, path: Path, form: Format, overwrite: bool, protect: Path | None) -> None:
    _check_place(photo, path, overwrite, protect)
    if photo.frames > 1 and _is_own(photo, path):
        raise PhotoError(f"it holds {photo.frames} pages, of which only the first would be left; choose another name")
    if max(photo.image.shape[-2:]) > form.max_side:
        raise PhotoError(f"{form.name} ends at {form.max_side} pixels a side, the photo has {_size(photo)}")


def _is_own(photo: Photo, path: Path) -> bool:
    return photo.path is not None and photo.path.exists() and path.exists() and path.samefile(photo.path)


def _check_place(photo: Photo, path: Path, overwrite: bool, protect: Path | None) -> None:
    if not path.parent.is_dir():
        raise PhotoError("its folder does not exist; make it first")
    if path.is_dir():
        raise PhotoError("it is a folder, expected a file name")
    if path.exists():
        if protect is not None and protect.exists() and path.samefile(protect):
            raise PhotoError("it is a file that must stay as it is; choose another name")
        if not overwrite:
            what = "it is the photo's own file" if _is_own(photo, path) else "it exists already"
            raise PhotoError(f"{what}; choose another name or allow overwriting")


def _size(photo: Photo) -> str:
    return f"{photo.image.shape[-1]} x {photo.image.shape[-2]}"


def _to_page(photo: Photo, form: Format, notes: list[str]) -> Page:
    """Bring the photo into what the format can hold, and say what was lost."""
    image, alpha = photo.image, photo.alpha
    if alpha is not None and not form.alpha:
        image, alpha = image * alpha + (1 - alpha), None
        notes.append(f"{form.name} holds no transparency: the photo was laid on white")
    if photo.bit_depth > form.depth:
        notes.append(f"{form.name} holds 8 bits per channel: {photo.bit_depth} were rounded to 8")
    dtype = np.uint16 if min(photo.bit_depth, form.depth) == 16 else np.uint8
    pixels = to_array(image, dtype)
    gray = bool((pixels == pixels[..., :1]).all()) if photo.gray else False
    if photo.gray and not gray:
        notes.append("the gray photo is no longer gray and was written in colour")
    page = Page(pixels[..., :1] if gray else pixels)
    if alpha is not None:
        page.pixels = np.concatenate([page.pixels, to_array(alpha.expand(-1, 3, -1, -1), dtype)[..., :1]], axis=2)
    if form.name == "GIF":
        notes.append("GIF holds 256 colours and transparency without steps: both were rounded")
    _add_profile(page, photo, form, notes)
    _add_metadata(page, photo, form, notes)
    return page


def _add_profile(page: Page, photo: Photo, form: Format, notes: list[str]) -> None:
    """Embed the photo's profile where it fits the pixels; convert them where it does not fit the format."""
    icc, space = photo.icc, color_space(photo.icc)
    if icc is None:
        return
    if photo.mode == "CMYK":
        _add_cmyk(page, icc, form, notes)
    elif photo.gray and space == "GRAY" and page.pixels.shape[2] > 2:
        notes.append("its gray colour profile does not fit colour and was dropped")
    elif "icc" in form.metadata:
        page.icc = icc
    elif space == "RGB" and page.pixels.shape[2] == 3 and profile_name(icc) and not is_srgb(icc):
        page.pixels = np.asarray(to_srgb(to_pillow(page.pixels), icc))
        notes.append(f"{form.name} holds no colour profile: the colours were converted to sRGB")
    elif not is_srgb(icc):
        notes.append(f"{form.name} holds no colour profile: it was dropped")


def _add_cmyk(page: Page, icc: bytes, form: Format, notes: list[str]) -> None:
    from PIL import ImageCms

    if not form.cmyk:
        notes.append(f"{form.name} holds no CMYK: written as sRGB")
    elif color_space(icc) == "CMYK" and page.pixels.dtype == np.uint8:
        try:
            page.pixels = np.asarray(from_srgb(to_pillow(page.pixels), icc))
        except (OSError, ImageCms.PyCMSError):
            notes.append("its CMYK profile has no way back from sRGB: written as sRGB")
        else:
            page.cmyk, page.icc = True, icc
            notes.append("converted back to CMYK through its colour profile")


def _add_metadata(page: Page, photo: Photo, form: Format, notes: list[str]) -> None:
    height, width = photo.image.shape[-2:]
    blocks = {"EXIF": photo.exif and patched_exif(photo.exif, width, height), "XMP": photo.xmp}
    for name, block in blocks.items():
        if not block:
            continue
        if name.lower() not in form.metadata:
            notes.append(f"{form.name} holds no {name} data: it was dropped")
        elif len(block) > form.max_block:
            notes.append(f"its {len(block)} bytes of {name} data are too many for {form.name} and were dropped")
        elif name == "EXIF" and form.rewrites_exif and described_exif(block) is None:
            notes.append(f"its EXIF data is too damaged for {form.name} and was dropped")
        else:
            setattr(page, name.lower(), block)
    page.dpi = photo.dpi if "dpi" in form.metadata else None
    if photo.own and photo.format == form.name and form.name in _KEEPS_CAPTIONS:
        page.own = photo.own
    elif photo.own:
        notes.append(f"the captions and comments of its {photo.format} could not be carried over and were dropped")


_KEEPS_CAPTIONS = ("JPEG", "PNG")


def _resized(tensor: Tensor, like: Image) -> Tensor:
    if tensor.shape[-2:] == like.shape[-2:]:
        return tensor
    return bicubic_to(tensor, like.shape[-2], like.shape[-1])
