"""HEIC and camera RAW are read through their extras, with what they carry, and written as something else."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image
from profiles import rgb_profile
from raw_files import dng, linear_light
from skimage import data

from conservator.errors import PhotoError
from conservator.files import sha256
from conservator.photo import Photo, copy_photo, load_photo, save_photo
from conservator.record import make_record
from conservator.request import Request
from conservator.restorer import Restorer

RGB = np.ascontiguousarray(data.astronaut()[40:104, 100:196])
PICTURE = Image.fromarray(RGB)
PROFILE = rgb_profile("Phone")


def heic() -> bytes:
    block = Image.Exif()
    block[0x010F], block[0x0112] = "Zeiss Ikon", 6
    file = io.BytesIO()
    options = {"exif": block.tobytes(), "xmp": b"<x:xmpmeta dc:title='Evening'/>"}
    heif = pillow_heif.from_pillow(PICTURE)
    heif.info["icc_profile"] = PROFILE
    heif.save(file, quality=90, **options)
    return file.getvalue()


def test_a_heic_is_read_with_what_it_carries_and_written_as_another_format(tmp_path: Path) -> None:
    (tmp_path / "in.heic").write_bytes(heic())
    photo = load_photo(tmp_path / "in.heic")
    assert (photo.format, photo.lossless) == ("HEIF", False)
    assert photo.image.shape == (1, 3, 96, 64)  # turned once
    assert photo.icc == PROFILE
    assert copy_photo(photo, tmp_path / "out.jpg") == (
        "HEIF is read and not written: the photo was encoded anew as JPEG",
    )
    with Image.open(tmp_path / "out.jpg") as other:
        assert other.size == (64, 96)
        assert (other.getexif()[0x010F], other.getexif()[0x0112]) == ("Zeiss Ikon", 1)
        assert b"Evening" in other.info["xmp"]
        assert other.info["icc_profile"] == PROFILE
    with pytest.raises(PhotoError, match=r"suffix '.heic' names no format that can be written"):
        save_photo(photo, tmp_path / "out.heic")


def test_a_raw_photo_is_as_bright_as_it_was_exposed(tmp_path: Path) -> None:
    """A frame of a quarter of the light, without a spot of white, comes out at a quarter of the light."""
    light = linear_light(RGB) * 0.25
    for name in ("in.dng", "in.nef", "in.jpg"):  # it is told by content
        (tmp_path / name).write_bytes(dng(light))
        photo = load_photo(tmp_path / name)
        assert (photo.format, photo.bit_depth, photo.lossless) == ("RAW", 16, True)
        found = linear_light(photo.image[0].permute(1, 2, 0).numpy() * 255)
        assert found.mean() == pytest.approx(light.mean(), rel=0.03)
        for channel in range(3):  # the camera's white balance
            assert found[..., channel].mean() == pytest.approx(light[..., channel].mean(), rel=0.06)
    assert "its name ends in .jpg, but it is a RAW file" in photo.notes
    save_photo(photo, tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as other:
        assert (other.tag_v2[271], other.tag_v2[272], other.tag_v2[306]) == (
            "Zeiss Ikon",
            "Digital",
            "2020:01:02 03:04:05",
        )
    assert load_photo(tmp_path / "out.tif").bit_depth == 16


@pytest.mark.parametrize(
    ("package", "make", "sentence"),
    [
        ("pillow_heif", heic, r"it is a HEIC photo, which needs an extra; pip install 'conservator\[heif\]'"),
        ("rawpy", lambda: dng(linear_light(RGB)), r"it is a camera RAW photo, .* pip install 'conservator\[raw\]'"),
    ],
)
def test_without_its_extra_a_photo_is_refused_with_the_way_out(
    package: str, make: Callable[[], bytes], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_bytes(make())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PhotoError, match=sentence):
        load_photo(tmp_path / "in")


@pytest.mark.parametrize("make", [heic, lambda: dng(linear_light(RGB))], ids=["HEIC", "RAW"])
def test_size_is_checked_before_heic_and_raw_are_decoded(make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(make())
    with pytest.raises(PhotoError, match=r"pixels, more than the limit of 6143"):
        load_photo(tmp_path / "in", max_pixels=64 * 96 - 1)
    assert isinstance(load_photo(tmp_path / "in", max_pixels=64 * 96), Photo)


def test_the_record_of_a_raw_photo_tells_what_was_read_and_written(tmp_path: Path) -> None:
    source, target = tmp_path / "in.dng", tmp_path / "out.jpg"
    source.write_bytes(dng(linear_light(RGB)))
    with Restorer(Request(policy="none")) as restorer:
        photo = restorer.load(source)
        restored = restorer.restore(photo)
        notes = restored.save(target)
        record = make_record(restored, photo, target, restorer.request, restorer.toolbox, notes, sha256(source))
    assert (record.input.format, record.input.bit_depth) == ("RAW", 16)
    assert (record.output.format, record.output.bit_depth) == ("JPEG", 8)
    assert "RAW is read and not written: the photo was encoded anew as JPEG" in record.notes


@pytest.mark.parametrize(
    "head",
    [
        b"FUJIFILMCCD-RAW 0201",
        b"IIU\0\x18\0\0\0",
        b"IIRO\x08\0\0\0",
        struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom",
    ],
)
def test_raw_of_other_makers_is_known_by_its_first_bytes(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(head + bytes(3000))
    with pytest.raises(PhotoError, match=r"camera RAW of a kind that LibRaw [\d.]+ does not know, or damaged"):
        load_photo(tmp_path / "in.jpg")


def test_a_camera_suffix_on_a_tiff_without_a_first_picture(tmp_path: Path) -> None:
    """A directory without a size, and the photo below it: what was once called damaged or cut off (256)."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as pages:
        pages.write(RGB[:8, :8], photometric="rgb", subifds=1, metadata=None)
        pages.write(RGB, photometric="rgb", metadata=None)
    width = struct.pack("<H", 256)
    content = file.getvalue().replace(width, struct.pack("<H", 255), 1)
    (tmp_path / "in.nef").write_bytes(content)
    photo = load_photo(tmp_path / "in.nef")
    assert photo.image.shape == (1, 3, 64, 96)
    assert "its name ends in .nef, but it is a TIFF file" in photo.notes
