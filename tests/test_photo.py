"""A photo comes back from the disk as it went there, with everything that it carries."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin
from profiles import cmyk_profile, gray_profile, rgb_profile
from skimage import data

from conservator.errors import PhotoError
from conservator.image import to_array
from conservator.photo import PHOTO_SUFFIXES, Photo, load_photo, save_photo

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d" dc:title="Evening"/></x:xmpmeta>'
CHANNELS = {"gray": 1, "gray_alpha": 2, "rgb": 3, "rgba": 4}


def pixels(channels: int, dtype: type = np.uint16, seed: int = 0) -> NDArray[np.generic]:
    shape = (37, 53) if channels == 1 else (37, 53, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "Zeiss Ikon"
    block[0x8769] = {0x829A: 0.008, 0xA002: 53, 0xA003: 37, 0x927C: b"maker\0note"}
    block[0x8825] = {1: "N", 2: (51.0, 28.0, 40.0)}
    stored = Image.Exif()
    stored.load(block.tobytes())
    return stored


def load(path: Path) -> NDArray[np.generic]:
    """All channels that the file holds, as another reader sees them: tifffile for TIFF, libpng for PNG, else Pillow."""
    if path.suffix == ".tif":
        return tifffile.imread(path)
    return imagecodecs.png_decode(path.read_bytes()) if path.suffix == ".png" else np.asarray(Image.open(path))


def write_tiff(path: Path, array: NDArray[np.generic], **options: object) -> None:
    colour = array.ndim == 3 and array.shape[-1 if options.get("planarconfig") != "separate" else 0] > 2
    extra = {} if array.ndim == 2 or array.shape[-1] % 2 else {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, array, photometric="rgb" if colour else "minisblack", metadata=None, **extra, **options)


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_come_back_exactly(tmp_path: Path, suffix: str, dtype: type, channels: int) -> None:
    array, source, target = pixels(channels, dtype), tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".png":
        source.write_bytes(imagecodecs.png_encode(array))
    else:
        write_tiff(source, array)
    photo = load_photo(source)
    assert photo.bit_depth == 8 * np.dtype(dtype).itemsize
    assert photo.gray == (channels < 3)
    assert (photo.alpha is not None) == (channels % 2 == 0)
    assert save_photo(photo.with_working_image(photo.working_image()), target) == ()
    written = load(target)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, array)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "predictor": True},
        {"compression": "deflate"},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_sixteen_bit_tiff_layouts(tmp_path: Path, options: dict[str, object]) -> None:
    write_tiff(tmp_path / "in.tif", pixels(3), **options)
    photo = load_photo(tmp_path / "in.tif")
    np.testing.assert_array_equal(to_array(photo.image, np.uint16), pixels(3))


def test_planar_and_inverted_tiff(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(np.moveaxis(pixels(3), -1, 0))
    write_tiff(tmp_path / "planes.tif", planes, planarconfig="separate")
    np.testing.assert_array_equal(to_array(load_photo(tmp_path / "planes.tif").image, np.uint16), pixels(3))
    tifffile.imwrite(tmp_path / "white.tif", 65535 - pixels(1), photometric="miniswhite")
    np.testing.assert_array_equal(to_array(load_photo(tmp_path / "white.tif").image, np.uint16)[..., 0], pixels(1))


def test_premultiplied_tiff_is_divided_out(tmp_path: Path) -> None:
    array = np.full((4, 4, 4), (10000, 20000, 30000, 32768), np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="rgb", extrasamples=["assocalpha"])
    colour = to_array(load_photo(tmp_path / "in.tif").image, np.uint16)[0, 0]
    np.testing.assert_allclose(colour, np.array([10000, 20000, 30000]) * 65535 / 32768, atol=1)


def test_floating_point_tiff(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 300, dtype=np.float32).reshape(10, 10, 3)
    write_tiff(tmp_path / "in.tif", values)
    photo = load_photo(tmp_path / "in.tif")
    assert photo.bit_depth == 16
    np.testing.assert_allclose(to_array(photo.image), values, atol=1e-5)
    for bad, reason in ((values * 3, "expected 0 to 1"), (values * np.nan, "expected 0 to 1")):
        write_tiff(tmp_path / "in.tif", bad)
        with pytest.raises(PhotoError, match=reason):
            load_photo(tmp_path / "in.tif")
    tifffile.imwrite(tmp_path / "in.tif", np.ones((4, 4), np.int32))
    with pytest.raises(PhotoError, match="32-bit signed numbers"):
        load_photo(tmp_path / "in.tif")


def test_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(3, np.uint8)).quantize(16)
    picture.save(tmp_path / "in.png", transparency=bytes(range(0, 240, 16)))
    expected = np.asarray(Image.open(tmp_path / "in.png").convert("RGBA"))
    photo = load_photo(tmp_path / "in.png")
    assert photo.mode == "P"
    assert save_photo(photo, tmp_path / "out.png") == ()
    np.testing.assert_array_equal(load(tmp_path / "out.png"), expected)


def test_invisible_pixels_do_not_bleed_and_keep_their_colour(tmp_path: Path) -> None:
    array = np.full((8, 8, 4), (255, 0, 0, 0), np.uint8)  # red, but invisible
    array[:, 4:] = (0, 0, 200, 128)
    Image.fromarray(array).save(tmp_path / "in.png")
    photo = load_photo(tmp_path / "in.png")
    seen = photo.working_image()
    assert float(seen[:, 0].max()) == 0  # no red to bleed
    brighter = to_array(photo.with_working_image((seen * 1.2).clamp(0, 1)).image, np.uint8)
    np.testing.assert_array_equal(brighter[:, :4], array[:, :4, :3])
    np.testing.assert_array_equal(brighter[:, 4:, 2], 240)


def test_an_enlarged_photo_gets_an_enlarged_alpha(tmp_path: Path) -> None:
    Image.fromarray(pixels(4, np.uint8)).save(tmp_path / "in.png")
    photo = load_photo(tmp_path / "in.png")
    assert photo.alpha is not None
    larger = photo.with_working_image(torch.nn.functional.interpolate(photo.working_image(), scale_factor=2))
    assert larger.alpha is not None
    assert larger.alpha.shape == (1, 1, 74, 106)
    assert float((larger.alpha[..., ::2, ::2] - photo.alpha).abs().mean()) < 0.2


def test_cmyk_jpeg_goes_through_its_profile_and_back(tmp_path: Path) -> None:
    profile, source, target = cmyk_profile("Test Inks"), tmp_path / "in.jpg", tmp_path / "out.jpg"
    rgb = Image.fromarray(data.astronaut()[::2, ::2])
    reader = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    ImageCms.profileToProfile(rgb, srgb, reader, outputMode="CMYK").save(
        source, quality=98, icc_profile=profile, exif=exif()
    )
    photo = load_photo(source)
    assert photo.mode == "CMYK"
    assert 'through its profile "Test Inks"' in photo.notes[0]
    assert (
        np.abs(to_array(photo.image, np.uint8).astype(int) - np.asarray(rgb)).mean() < 4
    )  # naive conversion: above 15
    assert "back to CMYK" in " ".join(save_photo(photo, target))
    with Image.open(source) as before, Image.open(target) as after:
        assert after.mode == "CMYK"
        assert after.info["icc_profile"] == profile
        assert after.getexif()[0x010F] == "Zeiss Ikon"
        assert np.abs(np.asarray(before).astype(int) - np.asarray(after)).mean() < 4
    save_photo(photo, tmp_path / "out.tif")
    assert load_photo(tmp_path / "out.tif").mode == "CMYK"
    assert "sRGB" in " ".join(save_photo(photo, tmp_path / "out.png"))
    with Image.open(tmp_path / "out.png") as png:
        assert png.mode == "RGB"
        assert "icc_profile" not in png.info


def test_cmyk_without_a_profile_is_converted_and_said(tmp_path: Path) -> None:
    Image.fromarray(data.astronaut()[::4, ::4]).convert("CMYK").save(tmp_path / "in.jpg")
    photo = load_photo(tmp_path / "in.jpg")
    assert "without a colour profile" in photo.notes[0]
    save_photo(photo, tmp_path / "out.jpg")
    assert Image.open(tmp_path / "out.jpg").mode == "RGB"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", *([".avif"] if ".avif" in PHOTO_SUFFIXES else [])])
def test_metadata_is_kept(tmp_path: Path, suffix: str) -> None:
    profile = rgb_profile("Wide Test")
    picture, source = Image.fromarray(data.astronaut()[:37, :53]), tmp_path / f"in{suffix}"
    text, block = PngImagePlugin.PngInfo(), exif()
    text.add_itxt("XML:com.adobe.xmp", (XMP % 1).decode())
    if suffix == ".tif":
        block[700] = XMP % 1
    options = {"pnginfo": text} if suffix == ".png" else {"xmp": XMP % 1}
    picture.save(source, exif=block, icc_profile=profile, dpi=(300, 300), **options)
    photo = load_photo(source)
    assert photo.notes == ('kept its colour profile "Wide Test": the values are its own, not sRGB',)
    assert save_photo(photo, tmp_path / f"out{suffix}") == ()
    for kept in (photo, load_photo(tmp_path / f"out{suffix}")):
        assert kept.icc == profile
        assert kept.xmp == XMP % 1
        block = Image.Exif()
        block.load(kept.exif)
        assert block[0x010F] == "Zeiss Ikon"
        assert float(block.get_ifd(0x8769)[0x829A]) == 0.008
        assert block.get_ifd(0x8769)[0x927C] == b"maker\0note"
        assert block.get_ifd(0x8825)[2] == (51.0, 28.0, 40.0)
        if suffix not in (".webp", ".avif"):
            assert kept.dpi == pytest.approx((300, 300), abs=0.01)
    with Image.open(tmp_path / f"out{suffix}") as other:  # Pillow sees the same
        assert other.info["icc_profile"] == profile
        assert other.getexif()[0x010F] == "Zeiss Ikon"
        assert other.info["xmp"] == XMP % 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_and_metadata_together(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(data.astronaut()[:37, :53]).save(tmp_path / "in.jpg", exif=exif(), xmp=XMP % 1, dpi=(240, 240))
    photo = load_photo(tmp_path / "in.jpg")
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(pixels(3)))
    deep = load_photo(tmp_path / "deep.png")
    carrying = type(photo)(
        deep.image, bit_depth=16, icc=rgb_profile("Deep"), exif=photo.exif, xmp=photo.xmp, dpi=photo.dpi
    )
    save_photo(carrying, tmp_path / f"out{suffix}")
    back = load_photo(tmp_path / f"out{suffix}")
    assert back.bit_depth == 16
    assert torch.equal(back.image, deep.image)
    assert (back.icc, back.xmp) == (carrying.icc, carrying.xmp)
    assert back.dpi == pytest.approx((240, 240), abs=0.02)
    assert back.exif is not None
    assert b"Zeiss Ikon" in back.exif
    assert b"maker\0note" in back.exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "tif16", "xmp"])
def test_orientation_is_applied_once(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = np.zeros((24, 40), np.uint8)
    upright[:8, :20], upright[8:, :10] = 255, 120  # no two of the eight positions look alike
    # where each pixel of the file comes from, by the EXIF standard: 2 mirrored, 3 turned by 180 degrees, ...
    turns = [None, None, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, np.transpose, lambda a: np.rot90(a, 1)]
    turns += [lambda a: np.rot90(a, 2).T, lambda a: np.rot90(a, -1)]
    turn = turns[orientation]
    stored = np.ascontiguousarray(turn(upright) if turn else upright)
    path = tmp_path / ("in." + {"tif16": "tif", "xmp": "jpg"}.get(kind, kind))
    if kind == "tif16":
        tifffile.imwrite(path, stored.astype(np.uint16) * 257, extratags=[(274, 3, 1, orientation, True)])
    elif kind == "xmp":
        Image.fromarray(stored).save(path, xmp=XMP % orientation)
    else:
        Image.fromarray(stored).save(path, exif=exif(orientation), **({"lossless": True} if kind == "webp" else {}))
    photo = load_photo(path)
    np.testing.assert_allclose(
        to_array(photo.image, np.uint8)[..., 0].astype(int), upright, atol=40 if "jpg" in path.name else 0
    )
    save_photo(photo, tmp_path / "out.png")
    again = load_photo(tmp_path / "out.png")
    assert torch.equal(again.image, photo.image)  # not turned a second time
    with Image.open(tmp_path / "out.png") as other:
        assert other.getexif().get(0x0112, 1) == 1
        if other.getexif().get_ifd(0x8769):
            assert (other.getexif().get_ifd(0x8769)[0xA002], other.getexif().get_ifd(0x8769)[0xA003]) == (40, 24)


TINT = torch.tensor([1.0, 0.8, 0.6]).view(1, 3, 1, 1)
"""What a tool that knows nothing of gray may do to the three channels of a gray photo."""


@pytest.mark.parametrize("kind", ["jpg", "png", "png16", "png1", "gray_alpha", "tif", "tif16"])
def test_a_gray_photo_stays_gray_with_its_profile(kind: str, tmp_path: Path) -> None:
    levels, profile = data.camera()[::8, ::8], gray_profile("Film")
    path = tmp_path / f"in.{kind[:3] if kind != 'gray_alpha' else 'png'}"
    if kind.endswith("16"):
        write_tiff(path, levels.astype(np.uint16) * 257, iccprofile=profile) if kind == "tif16" else path.write_bytes(
            imagecodecs.png_encode(levels.astype(np.uint16) * 257)
        )
    else:
        mode = {"png1": "1", "gray_alpha": "LA"}.get(kind, "L")
        Image.fromarray(levels).convert(mode).save(path, icc_profile=profile)
    photo, target = load_photo(path), tmp_path / f"out{path.suffix}"
    treated = photo.with_working_image(photo.working_image() * TINT)
    assert save_photo(treated, target) == ()
    written = load(target)
    assert written.dtype == (np.uint16 if kind.endswith("16") else np.uint8)
    assert written.ndim == 2 or written.shape[2] == 2
    expected = photo.image[0, 0].numpy() * 0.8 * np.iinfo(written.dtype).max
    found = written if written.ndim == 2 else written[..., 0]
    assert np.abs(found - expected).max() < (10 if kind == "jpg" else 2)
    if kind != "png16":
        assert load_photo(target).icc == profile


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_photo_stored_in_three_equal_channels_stays_neutral(suffix: str, tmp_path: Path) -> None:
    """A scan of a black-and-white print, saved as RGB: it stays RGB, with its profile, and gets no tint."""
    profile = rgb_profile("Scanner")
    Image.fromarray(data.camera()[::8, ::8]).convert("RGB").save(tmp_path / f"in{suffix}", icc_profile=profile)
    photo = load_photo(tmp_path / f"in{suffix}")
    assert save_photo(photo.with_image(photo.image * TINT), tmp_path / f"out{suffix}") == ()
    with Image.open(tmp_path / f"out{suffix}") as other:
        assert (other.mode, other.info["icc_profile"]) == ("RGB", profile)
        levels = np.asarray(other)
    assert (levels == levels[..., :1]).all()
    assert levels.std() > 20


def test_gray_levels_that_nobody_changed_stay_exactly() -> None:
    levels = torch.arange(65536).view(1, 1, 256, 256) / 65535
    image = levels.expand(1, 3, -1, -1).contiguous()
    assert torch.equal(Photo(image, gray=True, neutral=True).with_image(image).image, image)


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".gif", *([".avif"] if ".avif" in PHOTO_SUFFIXES else [])])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_gray_profile_gives_its_tones_to_a_format_that_cannot_hold_it(suffix: str, mode: str, tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert(mode)
    picture.save(tmp_path / "in.png", icc_profile=gray_profile("Linear", gamma=1.0))
    photo = load_photo(tmp_path / "in.png")
    notes = save_photo(photo, tmp_path / f"out{suffix}")
    assert any("the tones were converted to sRGB" in note for note in notes)
    with Image.open(tmp_path / f"out{suffix}") as other:
        assert "icc_profile" not in other.info
        levels = np.asarray(other.convert("RGB"))
    assert np.abs(levels[55].astype(int) - 128).max() < 6  # light of 55/255 is what sRGB calls 128
    assert np.ptp(levels.astype(int), axis=2).max() <= 2


@pytest.mark.parametrize(("mode", "profile"), [("RGB", gray_profile("Film")), ("L", cmyk_profile("Inks"))])
def test_a_profile_that_does_not_fit_the_pixels_is_dropped(mode: str, profile: bytes, tmp_path: Path) -> None:
    Image.fromarray(data.astronaut()[::8, ::8]).convert(mode).save(tmp_path / "in.jpg", icc_profile=profile)
    notes = save_photo(load_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg")
    assert len(notes) == 1
    assert "colour profile does not fit its pixels and was dropped" in notes[0]
    assert "icc_profile" not in Image.open(tmp_path / "out.jpg").info


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        (".jpg", ["laid on white", "16 were rounded to 8"]),
        (".webp", ["16 were rounded to 8"]),
        (".bmp", ["laid on white", "16 were rounded to 8", "converted to sRGB", "no EXIF", "no XMP"]),
        (".gif", ["16 were rounded to 8", "256 colours", "no colour profile", "no EXIF", "no XMP"]),
    ],
)
def test_what_a_format_cannot_hold_is_said(tmp_path: Path, suffix: str, lost: list[str]) -> None:
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(pixels(4)))
    photo = load_photo(tmp_path / "in.png")
    Image.new("RGB", (53, 37)).save(tmp_path / "carrier.jpg", exif=exif(), xmp=XMP % 1)
    carrier = load_photo(tmp_path / "carrier.jpg")
    photo = type(photo)(photo.image, photo.alpha, 16, icc=rgb_profile("Wide"), exif=carrier.exif, xmp=carrier.xmp)
    notes = save_photo(photo, tmp_path / f"out{suffix}")
    assert len(notes) == len(lost)
    assert all(part in " ".join(notes) for part in lost), notes
    assert load_photo(tmp_path / f"out{suffix}").image.shape == photo.image.shape


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(tmp_path / "in.png")
    save_photo(load_photo(tmp_path / "in.png"), tmp_path / "out.jpg")
    assert np.asarray(Image.open(tmp_path / "out.jpg")).min() > 250


def test_first_frame_only_and_said(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(1, np.uint8, seed)) for seed in range(4)]
    for suffix in (".gif", ".tif", ".png", ".webp"):
        path = tmp_path / f"in{suffix}"
        frames[0].save(
            path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {})
        )
        photo = load_photo(path)
        assert photo.notes[0].startswith("only the first of 4 ")
        np.testing.assert_array_equal(to_array(photo.image, np.uint8)[..., 0], np.asarray(frames[0]))


def test_webp_without_loss_when_the_source_lost_nothing(tmp_path: Path) -> None:
    Image.fromarray(pixels(4, np.uint8)).save(tmp_path / "in.png")
    save_photo(load_photo(tmp_path / "in.png"), tmp_path / "out.webp")
    again = load_photo(tmp_path / "out.webp")
    assert again.lossless
    save_photo(again, tmp_path / "again.webp")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "again.webp")), pixels(4, np.uint8))
    Image.fromarray(pixels(3, np.uint8)).save(tmp_path / "in.jpg")
    save_photo(load_photo(tmp_path / "in.jpg"), tmp_path / "lossy.webp")
    assert not load_photo(tmp_path / "lossy.webp").lossless
