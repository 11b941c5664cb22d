"""Writing a photo: what its format can hold is brought over, what it cannot is said, and nothing is destroyed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conservator.errors import PhotoError
from conservator.files import replacing
from conservator.image import to_array
from conservator.photo.carried import listed
from conservator.photo.color import color_space, from_srgb, is_srgb, profile_name, to_srgb
from conservator.photo.meta import described_exif, patched_exif
from conservator.photo.photo import PHOTO_SUFFIXES, Photo, grayed, reason_of
from conservator.photo.read import FORMATS
from conservator.photo.write import WRITABLE, Format, Page, encode, to_pillow


def save_photo(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    quality: int = 95,
    protect: Path | None = None,
    in_place: bool = False,
) -> tuple[str, ...]:
    """Write a photo in the format of the suffix; return plain sentences on what that format could not hold.

    The file appears at once and whole, or not at all. An existing file, the photo's own source above all, is replaced
    only with ``overwrite``, and the source not where it holds what would be lost; the file ``protect`` never. With
    ``in_place`` the file is to take the place of the source, wherever it is written: the same is refused.
    ``quality`` (1 to 100) is for JPEG, WebP and AVIF; WebP is written without loss when the photo came from a file
    without loss. Raises PhotoError, one sentence with the file and the reason.
    """
    path = Path(path)
    try:
        form = _form(path)
        own = in_place or _is_own(photo, path)
        _check_target(photo, path, form, overwrite, protect, own)
        if not 1 <= quality <= 100:
            raise PhotoError(f"quality is {quality}, expected 1 to 100")
        notes: list[str] = []
        page = _to_page(photo, form, notes)
        if own:
            _check_notes(notes)
        with replacing(path) as file:
            encode(file, page, form, quality=quality, lossless=photo.lossless)
    except PhotoError as error:
        raise PhotoError(f"cannot write {path}: {error}") from error
    except MemoryError as error:
        raise PhotoError(f"cannot write {path}: it needs more memory than there is") from error
    except Exception as error:  # encoders raise whatever they like
        raise PhotoError(f"cannot write {path}: {reason_of(error)}") from error
    return tuple(notes)


def check_in_place(photo: Photo, path: Path) -> None:
    """Raise the PhotoError of ``save_photo`` where a result may not take the place of the photo's own file ``path``."""
    try:
        form, notes = _form(path), list[str]()
        _check_target(photo, path, form, True, None, True)
        _to_page(photo, form, notes)
        _check_notes(notes)
    except PhotoError as error:
        raise PhotoError(f"cannot write {path}: {error}") from error


def _check_notes(notes: list[str]) -> None:
    if destroyed := [note for note in notes if note not in (_GIF_ROUNDS, _BACK_TO_CMYK)]:
        raise PhotoError(f"it is the photo's own file, and {'; '.join(destroyed)}; choose another name")


def copy_photo(photo: Photo, path: str | os.PathLike[str], *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a photo that was left as it came: its file, byte for byte, where the name's suffix or the format stays.

    A file whose suffix names another format than it is in (a PNG called .jpg) is copied under that suffix, too: whoever
    named it so opens it so. Another format, or what could be read of a damaged file, is written as ``save_photo`` does.
    Returns and raises what that does.
    """
    path, source = Path(path), photo.path
    if source is None or not photo.whole or not _stays(photo, source, path):
        notes = save_photo(photo, path, overwrite=overwrite)
        anew = f"{photo.format} is read and not written: the photo was encoded anew as {_form(path).name}"
        return notes if photo.format in FORMATS else (anew, *notes)
    try:
        _check_place(photo, path, overwrite, None)
        if not (path.exists() and path.samefile(source)):
            with source.open("rb") as original, replacing(path) as file:
                shutil.copyfileobj(original, file)
    except (PhotoError, OSError) as error:
        raise PhotoError(f"cannot write {path}: {reason_of(error)}") from error
    copied = "the file was copied, byte for byte"
    if WRITABLE.get(path.suffix.lower(), _NO_FORMAT).name in (photo.format, _NO_FORMAT.name):
        return (copied,)
    return copied, f"it is a {photo.format} file, although its name ends in {path.suffix}"


def _stays(photo: Photo, source: Path, path: Path) -> bool:
    """Whether a copy of the source is what is asked for under this name."""
    suffix = path.suffix.lower()
    return suffix == source.suffix.lower() or WRITABLE.get(suffix, _NO_FORMAT).name == photo.format


_NO_FORMAT = Format("none")
_GIF_ROUNDS = "GIF holds 256 colours and transparency without steps: both were rounded"
_BACK_TO_CMYK = "converted back to CMYK through its colour profile"


def _form(path: Path) -> Format:
    suffix = path.suffix.lower()
    if suffix not in PHOTO_SUFFIXES:
        names = " ".join(sorted(PHOTO_SUFFIXES))
        raise PhotoError(f"its suffix {path.suffix!r} names no format that can be written; take one of {names}")
    return WRITABLE[suffix]


def _check_target(photo: Photo, path: Path, form: Format, overwrite: bool, protect: Path | None, own: bool) -> None:
    _check_place(photo, path, overwrite, protect)
    if own:
        if photo.lost:
            raise PhotoError(f"it is the photo's own file, and would lose {listed(photo.lost)}; choose another name")
        if photo.format != form.name:
            raise PhotoError(
                f"it is the photo's own file, a {photo.format} that is no {form.name}; choose another name"
            )
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
    image, alpha = grayed(photo.image) if photo.gray else photo.image, photo.alpha
    if alpha is not None and not form.alpha:
        image, alpha = image * alpha + (1 - alpha), None
        notes.append(f"{form.name} holds no transparency: the photo was laid on white")
    if photo.bit_depth > form.depth:
        notes.append(f"{form.name} holds 8 bits per channel: {photo.bit_depth} were rounded to 8")
    dtype = np.uint16 if min(photo.bit_depth, form.depth) == 16 else np.uint8
    pixels = to_array(image, dtype)
    page = Page(pixels[..., :1] if photo.gray else pixels)
    if alpha is not None:
        page.pixels = np.concatenate([page.pixels, to_array(alpha.expand(-1, 3, -1, -1), dtype)[..., :1]], axis=2)
    if form.name == "GIF":
        notes.append(_GIF_ROUNDS)
    _add_profile(page, photo, form, notes)
    _add_metadata(page, photo, form, notes)
    return page


def _add_profile(page: Page, photo: Photo, form: Format, notes: list[str]) -> None:
    """Embed the photo's profile where it fits the pixels; convert them where it does not fit the format."""
    icc, space = photo.icc, color_space(photo.icc)
    gray = page.pixels.shape[2] < 3
    if icc is not None and photo.mode == "CMYK":
        _add_cmyk(page, icc, form, notes)
    elif icc is not None and space not in (("GRAY", "RGB") if gray else ("RGB",)) and profile_name(icc):
        notes.append(f"its {space} colour profile does not fit its pixels and was dropped")
    elif icc is not None and "icc" in form.metadata and (form.gray or space != "GRAY"):
        page.icc = icc
    elif icc is not None and not is_srgb(icc):
        what = "no colour profile" if "icc" not in form.metadata else "no gray, nor a profile of gray"
        done = _in_srgb(page, icc, space)
        notes.append(f"{form.name} holds {what}: {'the tones were converted to sRGB' if done else 'it was dropped'}")
    if gray and not form.gray:
        page.pixels = np.concatenate([page.pixels[..., :1].repeat(3, axis=2), page.pixels[..., 1:]], axis=2)


def _in_srgb(page: Page, icc: bytes, space: str) -> bool:
    """Convert the colours of a page of 8 bits through their profile; whether that was possible."""
    from PIL import ImageCms

    colours = page.pixels.shape[2] - (page.pixels.shape[2] % 2 == 0)
    if page.pixels.dtype != np.uint8 or (space == "RGB" and colours == 1):
        return False
    try:
        converted: NDArray[np.generic] = np.asarray(to_srgb(to_pillow(page.pixels[..., :colours]), icc))
    except (OSError, ImageCms.PyCMSError):
        return False
    page.pixels = np.concatenate([converted[..., :colours], page.pixels[..., colours:]], axis=2)
    return True


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
            notes.append(_BACK_TO_CMYK)


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
    if photo.format == form.name and form.blocks:
        page.blocks = photo.blocks
    elif names := [block.name for block in photo.blocks if block.name]:
        notes.append(f"{form.name} cannot hold what else its {photo.format} does, it was dropped: {listed(names)}")
