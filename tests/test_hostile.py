"""Whatever a file holds, reading it ends as a photo or as one clear sentence, soon and within bounds."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin, features
from profiles import rgb_profile
from raw_files import dng, linear_light
from skimage import data

from conservator.errors import PhotoError
from conservator.image import check_image, to_array
from conservator.photo import Photo, load_photo, save_photo

READ_ALL = """
import json, sys, time
from conservator.photo import load_photo
from conservator.errors import PhotoError
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        load_photo(path)
        said = None
    except PhotoError as error:
        said = str(error)
    # not ru_maxrss, in which Linux counts the memory of the process that started this one
    megabytes = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024
    print(json.dumps([path, time.process_time() - start, megabytes, said]))
"""


def hostile(shared: Path, folder: str) -> list[Path]:
    files = sorted(p for p in (shared / "data" / "hostile" / folder).glob("*") if p.name != "LICENSE")
    if not files:
        pytest.skip(f"the shared folder has no hostile files in {folder}")
    return files


@pytest.mark.parametrize("folder", ["pngsuite", "fuzz", "exif-orientation"])
def test_every_hostile_file_ends_soon_and_well(shared: Path, folder: str) -> None:
    files = hostile(shared, folder)
    process = subprocess.run(
        [sys.executable, "-c", READ_ALL, *map(str, files)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]
    results = [json.loads(line) for line in process.stdout.splitlines()]
    assert [r[0] for r in results] == [str(p) for p in files]
    for path, seconds, megabytes, said in results:
        assert seconds < 2, path
        assert megabytes < 1024, path  # the highest so far, so of every single one, too
        assert said is None or (said.startswith(f"cannot read {path}: ") and "\n" not in said)


def test_pngsuite_is_read_but_for_its_broken_files(shared: Path) -> None:
    for path in hostile(shared, "pngsuite"):
        if path.name.startswith("x"):
            with pytest.raises(PhotoError):
                load_photo(path)
            continue
        photo = load_photo(path)
        assert photo.bit_depth == (16 if path.stem.endswith("16") else 8), path
        assert photo.gray == (path.stem[-4] in "04"), path  # its colour type


def test_pngsuite_interlaced_and_plain_are_the_same(shared: Path) -> None:
    for path in hostile(shared, "pngsuite"):
        if path.name.startswith("basi"):
            one, other = load_photo(path), load_photo(path.with_name(path.name.replace("basi", "basn")))
            assert np.array_equal(to_array(one.image), to_array(other.image)), path


def test_low_depth_gray_with_a_transparent_level(shared: Path) -> None:
    """Pillow compares the unscaled level and finds nothing transparent in this file."""
    photo = load_photo(hostile(shared, "pngsuite")[0].with_name("tbbn0g04.png"))
    assert photo.alpha is not None
    assert 0.2 < float(photo.alpha.mean()) < 0.8


def test_oriented_photos_come_out_upright(shared: Path) -> None:
    files = hostile(shared, "exif-orientation")
    first = load_photo(files[0])
    for path in files[1:]:
        photo = load_photo(path)
        assert photo.image.shape == first.image.shape
        # the same landscape but for the number written into its middle
        assert float((photo.image - first.image).abs().mean()) < 0.03, path


def encoded(kind: str) -> bytes:
    picture, buffer = Image.fromarray(data.astronaut()[40:72, 100:148]), io.BytesIO()
    deep = np.asarray(picture).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Zeiss Ikon"
    exif[0x8769] = {0x829A: 0.008, 0x927C: b"maker note"}
    if kind == "png16":
        return bytes(imagecodecs.png_encode(deep))
    if kind == "jpeg12":
        return bytes(imagecodecs.jpeg_encode(deep >> 4, level=90, bitspersample=12))
    if kind == "dng":
        return dng(linear_light(np.asarray(picture)), orientation=6)
    if kind == "heic":
        heif = pillow_heif.from_pillow(picture)
        heif.add_from_pillow(picture.rotate(180))
        heif.save(buffer, exif=exif.tobytes(), quality=60)
    elif kind == "thumbnail":
        with tifffile.TiffWriter(buffer) as pages:
            pages.write(deep[::4, ::4], photometric="rgb", subfiletype=1, subifds=1)
            pages.write(deep, photometric="rgb", compression="deflate", extratags=[(33723, 4, 2, (28, 99), True)])
        return buffer.getvalue()
    if kind == "tiff16":
        tifffile.imwrite(buffer, deep, photometric="rgb", compression="lzw", extratags=[(274, 3, 1, 6, True)])
    elif kind == "tiff":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274], tags[271] = 6, "Zeiss Ikon"
        picture.save(buffer, "TIFF", compression="tiff_lzw", tiffinfo=tags)
    elif kind == "gif":
        picture.quantize(64).save(buffer, "GIF", save_all=True, append_images=[picture.quantize(32)])
    elif kind != "heic":
        options = {} if kind == "bmp" else {"exif": exif.tobytes(), "icc_profile": rgb_profile("Wide")}
        picture.save(buffer, kind, **options)
    return buffer.getvalue()


KINDS = ("jpeg", "jpeg12", "png", "png16", "tiff", "tiff16", "thumbnail", "webp", "gif", "bmp", "heic", "dng")
KINDS += ("avif",) if features.check("avif") else ()
ORIGINALS = {kind: encoded(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_unharmed_originals_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").write_bytes(ORIGINALS[kind])
    assert isinstance(load_photo(tmp_path / "in"), Photo)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], derandomize=True
)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    head=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    allow=st.booleans(),
)
def test_random_damage(
    tmp_path: Path, kind: str, flips: list[tuple[float, int]], head: list[tuple[int, int]], keep: float, allow: bool
) -> None:
    content = bytearray(ORIGINALS[kind])
    for where, value in flips:
        content[int(where * len(content))] = value
    for at, value in head:
        content[at % len(content)] = value
    path = tmp_path / "in"
    path.write_bytes(content[: int(keep * len(content))])
    try:
        photo = load_photo(path, allow_truncated=allow, max_pixels=10_000_000)
    except PhotoError as error:
        photo, said = None, str(error)
    if photo is None:
        assert said.startswith(f"cannot read {path}: ")
        return
    check_image(photo.image)
    for suffix in (".png", ".tif"):  # what could be read can be written
        save_photo(photo, tmp_path / f"out{suffix}", overwrite=True)


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\0", b"\xff\xe7\0\2"], ids=["marks", "stuffing", "segments"])
def test_a_jpeg_of_nothing_but_marks_ends_soon(filling: bytes, tmp_path: Path) -> None:
    """Three megabytes that a careless search would go through once for every byte of them."""
    (tmp_path / "in.jpg").write_bytes(ORIGINALS["jpeg"][:-2] + filling * (3_000_000 // len(filling)))
    photo = load_photo(tmp_path / "in.jpg", allow_truncated=True)
    assert all(note.isprintable() and len(note) < 500 for note in photo.notes)


def test_a_tiff_whose_directories_lead_in_circles_ends(tmp_path: Path) -> None:
    content = bytearray(ORIGINALS["tiff16"])
    first = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[first : first + 2], "little")
    after = first + 2 + 12 * entries
    content[after : after + 4] = first.to_bytes(4, "little")  # the next page is the first
    (tmp_path / "in.tif").write_bytes(content)
    assert load_photo(tmp_path / "in.tif").frames == 1
