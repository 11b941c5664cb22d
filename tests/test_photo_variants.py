"""Every variant of the formats that are read: the right pixels, or the one true sentence on why not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from raw_files import dng, linear_light
from skimage import data

from conservator.errors import PhotoError
from conservator.image import to_array
from conservator.photo import PHOTO_SUFFIXES, load_photo

RGB = np.ascontiguousarray(data.astronaut()[40:104, 100:196])
GRAY = np.ascontiguousarray(data.camera()[100:164, 100:196])
DEEP = RGB.astype(np.uint16) * 257
HALF = np.full(GRAY.shape, 128, np.uint8)
PICTURE, GRAY_PICTURE = Image.fromarray(RGB), Image.fromarray(GRAY)
LOSSY, COARSE = 3.0, 5.0
"""Mean difference in levels of 255: of a good compression, and of one that halves the resolution of colours."""


@dataclass(frozen=True)
class Row:
    """One variant: how it is made, and what it must be read as."""

    name: str
    make: Callable[[], bytes]
    expected: NDArray[np.generic]
    """Levels of 255, (H, W) for a gray photo or (H, W, 3)."""
    difference: float = 0.51
    """The largest mean difference; the default is the rounding of 8 bits."""
    bits: int = 8
    alpha: float | None = None
    notes: tuple[str, ...] = ()
    """A part of each note, in their order."""
    gray: bool | None = None
    """Whether the file has a single channel of colour; as ``expected`` has, where not said."""


def pil(image: Image.Image, form: str, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return make


def tif(pixels: NDArray[np.generic], photometric: str | None = None, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        kind = photometric or ("minisblack" if pixels.ndim == 2 else "rgb")
        tifffile.imwrite(file, pixels, photometric=kind, metadata=None, **options)
        return file.getvalue()

    return make


def jpeg(pixels: NDArray[np.generic], **options: object) -> Callable[[], bytes]:
    return lambda: bytes(imagecodecs.jpeg_encode(pixels, level=97, **options))


def pages(*several: dict[str, object]) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for page in several:
                writer.write(**{"photometric": "rgb", "metadata": None} | page)
        return file.getvalue()

    return make


def heic(image: Image.Image | None = None, deep: bool = False, more: int = 0, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        if deep:
            heif = pillow_heif.from_bytes(mode="RGB;16", size=(96, 64), data=DEEP.tobytes())
        else:
            heif = pillow_heif.from_pillow(image)
        for _ in range(more):
            heif.add_from_pillow(PICTURE.rotate(180))
        file = io.BytesIO()
        heif.save(file, quality=95, **options)
        return file.getvalue()

    return make


def levels(bits: int, pixels: NDArray[np.uint8] = GRAY) -> NDArray[np.generic]:
    """Levels of 8 bits, rounded to fewer or stretched to more."""
    rounded = np.rint(pixels / 255 * (2**bits - 1))
    return rounded.astype(np.uint8 if bits <= 8 else np.uint16)


def seen(bits: int, pixels: NDArray[np.uint8] = GRAY) -> NDArray[np.generic]:
    return levels(bits, pixels) * (255 / (2**bits - 1))


def in_lab(image: Image.Image) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert converted is not None
    return converted


def turned(orientation: int = 6) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


LIGHTS = np.arange(GRAY.size).reshape(GRAY.shape) % 40 == 0
BLACK_AND_WHITE = Image.fromarray(GRAY > 128)
PALETTE = PICTURE.quantize(64)
CMYK_NOTES = ("converted from CMYK to sRGB without a colour profile",)
SMALL = {"data": RGB[::4, ::4]}
THUMBNAIL_NOTES = ("its first page is a thumbnail: the full picture behind it was read", "a smaller copy of it")
STRETCHED = tuple((f"{bits} bits per channel were stretched to 16",) for bits in (10, 12, 14))

JPEG = [
    Row("baseline", pil(PICTURE, "JPEG", quality=97), RGB, COARSE),
    Row("progressive", pil(PICTURE, "JPEG", quality=97, progressive=True), RGB, COARSE),
    *(
        Row(s, pil(PICTURE, "JPEG", quality=97, subsampling=s), RGB, COARSE)
        for s in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")
    ),
    Row("gray", pil(GRAY_PICTURE, "JPEG", quality=97), GRAY, LOSSY),
    Row("restart markers", pil(PICTURE, "JPEG", quality=97, restart_marker_rows=1), RGB, COARSE),
    Row("stored as RGB", pil(PICTURE, "JPEG", quality=97, keep_rgb=True), RGB, LOSSY),
    Row("without JFIF", lambda: without_jfif(pil(PICTURE, "JPEG", quality=97)()), RGB, COARSE),
    Row(
        "turned", pil(PICTURE, "JPEG", quality=97, exif=turned()), np.rot90(RGB, -1), COARSE, notes=("turned upright",)
    ),
    Row("CMYK", pil(PICTURE.convert("CMYK"), "JPEG", quality=97), RGB, LOSSY, notes=CMYK_NOTES),
    Row(
        "YCCK",
        jpeg(255 - np.asarray(PICTURE.convert("CMYK")), colorspace="CMYK", outcolorspace="YCCK"),
        RGB,
        LOSSY,
        notes=CMYK_NOTES,
    ),
    Row("12 bits, gray", jpeg(levels(12), bitspersample=12), GRAY, LOSSY, 16, notes=STRETCHED[1]),
    Row("12 bits", jpeg(levels(12, RGB), bitspersample=12), RGB, COARSE, 16, notes=STRETCHED[1]),
    Row("lossless", jpeg(RGB, lossless=True), RGB),
    Row("lossless, 16 bits", jpeg(DEEP, lossless=True, bitspersample=16), RGB, 0.01, 16),
    Row(
        "lossless, 16 bits, gray", lambda: bytes(imagecodecs.ljpeg_encode(GRAY.astype(np.uint16) * 257)), GRAY, 0.01, 16
    ),
]

TIFF = [
    *(
        Row(str(method), tif(RGB, compression=method), RGB)
        for method in (None, "lzw", "deflate", "packbits", "zstd", "lzma")
    ),
    Row("JPEG", pil(PICTURE, "TIFF", compression="jpeg", quality=97), RGB, COARSE),
    Row("JPEG, gray", tif(GRAY, compression="jpeg"), GRAY, COARSE),
    *(
        Row(method, pil(BLACK_AND_WHITE, "TIFF", compression=method), (GRAY > 128) * 255)
        for method in ("raw", "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw")
    ),
    *(Row(f"predictor, {m}", tif(RGB, compression=m, predictor=True), RGB) for m in ("lzw", "deflate", "zstd")),
    Row("tiles", tif(RGB, tile=(32, 32)), RGB),
    Row("strips", tif(RGB, rowsperstrip=5), RGB),
    Row("big-endian", tif(RGB, byteorder=">"), RGB),
    Row("BigTIFF", tif(RGB, bigtiff=True), RGB),
    Row("BigTIFF, 16 bits", tif(DEEP, bigtiff=True), RGB, 0.01, 16),
    Row("big-endian, 16 bits", tif(DEEP, byteorder=">"), RGB, 0.01, 16),
    Row("planar", tif(np.moveaxis(RGB, -1, 0).copy(), "rgb", planarconfig="separate", compression="lzw"), RGB),
    Row("planar, 16 bits", tif(np.moveaxis(DEEP, -1, 0).copy(), "rgb", planarconfig="separate"), RGB, 0.01, 16),
    *(Row(f"{bits} bits", tif(levels(bits), bitspersample=bits), seen(bits)) for bits in (2, 4, 8)),
    *(
        Row(f"{bits} bits", tif(levels(bits, RGB), bitspersample=bits), RGB, 0.1, 16, notes=note)
        for bits, note in zip((10, 12, 14), STRETCHED, strict=True)
    ),
    Row("white is 0", tif(255 - GRAY, "miniswhite"), GRAY),
    Row("white is 0, 4 bits", tif(15 - levels(4), "miniswhite", bitspersample=4), seen(4)),
    Row("white is 0, 16 bits", tif(65535 - levels(16), "miniswhite"), GRAY, 0.01, 16),
    *(
        Row(kind.__name__, tif((RGB / 255).astype(kind)), RGB, 0.05, 16, notes=("rounded to 16 bits",))
        for kind in (np.float16, np.float32, np.float64)
    ),
    Row(
        "float with a predictor",
        tif((GRAY / 255).astype(np.float32), compression="deflate", predictor=True),
        GRAY,
        0.01,
        16,
        notes=("rounded",),
    ),
    Row(
        "float that overshoots",
        tif((RGB / 255 * 1.2 - 0.1).astype(np.float32)),
        np.clip(RGB * 1.2 - 25.5, 0, 255),
        0.01,
        16,
        notes=("floating-point values from -0.1 to 1.01 were clipped to 0 to 1", "rounded to 16 bits"),
    ),
    Row(
        "float with highlights",
        tif(np.where(LIGHTS, 7.5, GRAY / 255).astype(np.float32)),
        np.where(LIGHTS, 255, GRAY),
        0.01,
        16,
        notes=("to 7.5 were clipped to 0 to 1", "rounded"),
    ),
    Row("alpha", tif(np.dstack([RGB, HALF]), extrasamples=["unassalpha"]), RGB, alpha=128 / 255),
    Row(
        "multiplied with alpha", tif(np.dstack([RGB // 2, HALF]), extrasamples=["assocalpha"]), RGB, 2, alpha=128 / 255
    ),
    Row("gray, alpha", tif(np.dstack([GRAY, HALF]), "minisblack", extrasamples=["unassalpha"]), GRAY, alpha=128 / 255),
    Row(
        "infrared", tif(np.dstack([RGB, GRAY]), extrasamples=["unspecified"]), RGB, notes=("(infrared, for instance)",)
    ),
    Row(
        "infrared, 16 bits",
        tif(np.dstack([DEEP, levels(16)]), extrasamples=["unspecified"]),
        RGB,
        0.01,
        16,
        notes=("channels besides colour and alpha",),
    ),
    Row(
        "alpha and infrared",
        tif(np.dstack([RGB, HALF, GRAY]), extrasamples=["unassalpha", "unspecified"]),
        RGB,
        alpha=128 / 255,
        notes=("channels besides colour and alpha",),
    ),
    Row("palette", pil(PALETTE, "TIFF"), np.asarray(PALETTE.convert("RGB"))),
    Row("CMYK", pil(PICTURE.convert("CMYK"), "TIFF"), RGB, notes=CMYK_NOTES),
    Row(
        "CMYK, 16 bits",
        tif(np.asarray(PICTURE.convert("CMYK")).astype(np.uint16) * 257, "separated"),
        RGB,
        notes=("16 bits per channel were read as 8", *CMYK_NOTES),
    ),
    Row("YCbCr", tif(RGB, "rgb", compression="jpeg", compressionargs={"outcolorspace": "ycbcr"}), RGB, COARSE),
    Row("Lab", pil(in_lab(PICTURE), "TIFF"), RGB, LOSSY, notes=("converted from Lab to sRGB",)),
    Row("a thumbnail first", pages(SMALL | {"subfiletype": 1}, {"data": RGB}), RGB, notes=THUMBNAIL_NOTES),
    Row("a thumbnail first, unsaid", pages(SMALL, {"data": RGB}), RGB, notes=THUMBNAIL_NOTES),
    Row("a thumbnail first, 16 bits", pages(SMALL, {"data": DEEP}), RGB, 0.01, 16, notes=THUMBNAIL_NOTES),
    Row(
        "the photo below a thumbnail",
        pages(SMALL | {"subfiletype": 1, "subifds": 1}, {"data": RGB}),
        RGB,
        notes=THUMBNAIL_NOTES,
    ),
    Row("a pyramid", pages({"data": RGB, "subifds": 1}, SMALL | {"subfiletype": 1}), RGB, notes=("a smaller copy",)),
    Row("pages", pages({"data": RGB}, {"data": RGB[::-1]}), RGB, notes=("only the first of 2 pages was read",)),
    Row("pages of two shapes", pages(SMALL, {"data": RGB[:, ::2]}), RGB[::4, ::4], notes=("the first of 2 pages",)),
]

OTHER = [
    *(
        Row(f"PNG, {bits} bits", lambda bits=bits: gray_png(bits), seen(bits), gray=True)  # type: ignore[misc]
        for bits in (1, 2, 4, 8)
    ),
    Row("PNG, 16 bits", lambda: bytes(imagecodecs.png_encode(DEEP)), RGB, 0.01, 16),
    Row("PNG, 16 bits, gray", lambda: bytes(imagecodecs.png_encode(levels(16))), GRAY, 0.01, 16),
    Row("PNG, palette", pil(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    Row("PNG, a transparent colour", pil(PICTURE, "PNG", transparency=(1, 2, 3)), RGB, alpha=1),
    Row(
        "PNG, palette with alpha",
        pil(PALETTE, "PNG", transparency=bytes([128]) * 64),
        np.asarray(PALETTE.convert("RGB")),
        alpha=128 / 255,
    ),
    Row("PNG, alpha", pil(Image.fromarray(np.dstack([RGB, HALF])), "PNG"), RGB, alpha=128 / 255),
    Row("PNG, gray, alpha", pil(Image.fromarray(np.dstack([GRAY, HALF])), "PNG"), GRAY, alpha=128 / 255),
    Row("WebP", pil(PICTURE, "WEBP", quality=95), RGB, COARSE),
    Row("WebP without loss", pil(PICTURE, "WEBP", lossless=True), RGB),
    Row("WebP, alpha", pil(Image.fromarray(np.dstack([RGB, HALF])), "WEBP", lossless=True), RGB, alpha=128 / 255),
    Row(
        "WebP, moving",
        pil(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[PICTURE.rotate(180)]),
        RGB,
        notes=("only the first of 2 frames was read",),
    ),
    Row("GIF", pil(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    *(
        Row(f"BMP, {mode}", pil(PICTURE.convert(mode), "BMP"), np.asarray(PICTURE.convert(mode).convert(kind)))
        for mode, kind in (("1", "L"), ("L", "L"), ("P", "RGB"), ("RGB", "RGB"))
    ),
    Row("HEIC", heic(PICTURE), RGB, LOSSY),
    Row("HEIC, gray", heic(GRAY_PICTURE), GRAY, LOSSY),
    Row("HEIC, 10 bits", heic(deep=True), RGB, LOSSY, 16, notes=STRETCHED[0]),
    Row("HEIC, alpha", heic(Image.fromarray(np.dstack([RGB, HALF]))), RGB, LOSSY, alpha=128 / 255),
    Row("HEIC, turned", heic(PICTURE, exif=turned()), np.rot90(RGB, -1), LOSSY),
    Row("HEIC, two pictures", heic(PICTURE, more=1), RGB, LOSSY, notes=("only the main one of 2 pictures was read",)),
    Row(
        "DNG", lambda: dng(linear_light(RGB)), RGB, 6, 16, notes=("developed from camera RAW with the camera's white",)
    ),
    Row(
        "DNG, turned", lambda: dng(linear_light(RGB), 6), np.rot90(RGB, -1), 6, 16, notes=("developed from camera RAW",)
    ),
]
if ".avif" in PHOTO_SUFFIXES:
    OTHER += [
        Row("AVIF", pil(PICTURE, "AVIF", quality=95), RGB, COARSE),
        Row(
            "AVIF, 10 bits",
            lambda: bytes(imagecodecs.avif_encode(levels(10, RGB), level=95, bitspersample=10)),
            RGB,
            COARSE,
            notes=("10 bits per channel were read as 8",),
        ),
        Row("AVIF, gray", lambda: bytes(imagecodecs.avif_encode(GRAY, level=95)), GRAY, LOSSY),
    ]


def without_jfif(content: bytes) -> bytes:
    assert content[2:4] == b"\xff\xe0"
    return content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]


def gray_png(bits: int) -> bytes:
    """Pillow writes gray of fewer than 8 bits as a palette of grays; so the header and the pixels are made here."""
    rows = np.packbits(np.unpackbits(levels(bits)[..., None], axis=2)[..., -bits:].reshape(64, -1), axis=1)
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 96, 64, bits, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{form}-{row.name}")
        for form, rows in (("JPEG", JPEG), ("TIFF", TIFF), ("", OTHER))
        for row in rows
    ],
)
def test_a_variant_is_read_as_what_it_shows(row: Row, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(row.make())
    photo = load_photo(tmp_path / "photo")
    expected = row.expected if row.expected.ndim == 3 else row.expected[..., None].repeat(3, axis=2)
    found = to_array(photo.image) * 255
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < row.difference
    assert photo.bit_depth == row.bits
    assert photo.gray == (row.expected.ndim == 2 if row.gray is None else row.gray)
    assert (photo.alpha is None) == (row.alpha is None)
    if photo.alpha is not None:
        assert float(photo.alpha.mean()) == pytest.approx(row.alpha, abs=0.01)
    for part, note in zip(row.notes, photo.notes, strict=False):
        assert part in note
    assert len(row.notes) <= len(photo.notes)
    assert bool(row.notes) == bool(photo.notes), photo.notes


def unknown_colours() -> bytes:
    entry = struct.pack("<HHIH", 262, 3, 1, 1)  # the photometric interpretation, black is 0
    content = tif(GRAY)()
    assert content.count(entry) == 1
    return content.replace(entry, entry[:-2] + struct.pack("<H", 1111))


REFUSED = {
    "32 bits": (tif(RGB.astype(np.uint32)), "it holds 32-bit unsigned numbers"),
    "with a sign": (tif(GRAY.astype(np.int16)), "it holds 16-bit signed numbers"),
    "8 bits with a sign": (tif((GRAY // 2).astype(np.int8)), "it holds 8-bit signed numbers"),
    "float, of levels": (tif(GRAY.astype(np.float32)), "floating-point values reach from .* to 255, expected 0 to 1"),
    "float, of another exposure": (tif((RGB / 255 * 3).astype(np.float32)), "of them lie well outside"),
    "float, not all numbers": (tif(np.where(GRAY > 100, np.nan, 0.5).astype(np.float32)), "expected 0 to 1"),
    "Lab, 16 bits": (tif(DEEP, "cielab"), "Lab at 16 bits per channel, expected 8"),
    "palette, 16 bits": (
        tif(levels(16), "palette", colormap=np.arange(65536)[None].repeat(3, 0).astype(np.uint16)),
        "palette at 16 bits per channel, expected 8",
    ),
    "colours of no known kind": (unknown_colours, "colours of a kind that is not read here"),
    "BigTIFF, big-endian": (tif(RGB, bigtiff=True, byteorder=">"), "it is a BigTIFF with the high byte first"),
    "JPEG 2000": (tif(RGB, compression="jpeg2000"), "is compressed with JPEG 2000, which is not read here"),
    "JPEG XL": (tif(RGB, compression="jpegxl"), "is compressed with JPEG XL, which is not read here"),
    "LERC": (tif(GRAY, compression="lerc"), "is compressed with LERC, which is not read here"),
    "CMYK JPEG, 12 bits": (
        jpeg(
            levels(12, np.asarray(PICTURE.convert("CMYK"))), colorspace="CMYK", outcolorspace="CMYK", bitspersample=12
        ),
        "it is a JPEG of 12 bits and 4 channels, expected gray or colour",
    ),
    "12-bit JPEG, cut off": (
        lambda: jpeg(levels(12, RGB), bitspersample=12)()[:-300],
        r"it is damaged or cut off \(it ends before its end marker\)",
    ),
    "DNG, cut off": (
        lambda: dng(linear_light(RGB))[:-3000],
        r"it is damaged or cut off \(it ends before its pixels do\)",
    ),
    "JPEG XL itself": (lambda: bytes(imagecodecs.jpegxl_encode(RGB)), "it is not a JPEG, .* nor HEIC or camera RAW"),
}


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_read_is_refused_with_the_true_reason(
    make: Callable[[], bytes], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "photo").write_bytes(make())
    with pytest.raises(PhotoError, match=sentence) as caught:
        load_photo(tmp_path / "photo")
    assert "\n" not in str(caught.value)
    assert "cut off" in sentence or "damaged" not in str(caught.value)
