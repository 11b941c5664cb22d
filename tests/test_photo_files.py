"""Photos meet the disk: bad, cut-off and existing files, and writes that fail half-way."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage import data

from conservator.errors import PhotoError
from conservator.files import replacing
from conservator.photo import Photo, copy_photo, load_photo, save_photo


def load_sample(folder: Path) -> Photo:
    Image.new("RGB", (8, 8)).save(folder / "sample.png")
    return load_photo(folder / "sample.png")


def write_half(target: Path) -> None:
    with replacing(target) as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt


def test_nothing_is_overwritten_unless_told(tmp_path: Path) -> None:
    path, other = tmp_path / "in.png", tmp_path / "other.png"
    Image.new("RGB", (8, 8)).save(path)
    other.write_bytes(b"precious")
    photo = load_photo(path)
    before = path.read_bytes()
    with pytest.raises(PhotoError, match="photo's own file"):
        save_photo(photo, path)
    with pytest.raises(PhotoError, match="exists already"):
        save_photo(photo, other)
    with pytest.raises(PhotoError, match="must stay"):
        save_photo(photo, other, overwrite=True, protect=tmp_path / "." / "other.png")
    assert (path.read_bytes(), other.read_bytes()) == (before, b"precious")
    save_photo(photo, other, overwrite=True)
    assert Image.open(other).size == (8, 8)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "photo.webp"
    target.write_bytes(b"old")
    with pytest.raises(PhotoError, match="ends at 16383 pixels"):
        save_photo(Photo(torch.zeros(1, 3, 1, 17000)), target, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        write_half(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["photo.webp"]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "photo.png"
    target.write_bytes(b"old")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom conservator.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as file:\n    file.write(b'half'); file.flush(); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(target)], check=False).returncode == 9
    assert target.read_bytes() == b"old"
    assert all(p.name.startswith(".") for p in tmp_path.iterdir() if p != target)  # a folder scan passes it by


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("out.xyz", "take one of .*jpg"),
        ("out", "take one of .*jpg"),
        ("no/out.png", "does not exist"),
        ("dir.png", "folder"),
    ],
)
def test_bad_targets(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(PhotoError, match=reason) as caught:
        save_photo(load_sample(tmp_path), tmp_path / name)
    assert name in str(caught.value)


def test_bad_sources(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a photo at all")
    os.mkfifo(tmp_path / "pipe.jpg")
    Image.new("RGB", (100, 50)).save(tmp_path / "large.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "icon.ico")
    expected = {
        "missing.jpg": "No such file",
        ".": "folder",
        "empty.jpg": "empty",
        "text.jpg": "not a JPEG, PNG",
        "pipe.jpg": "not a regular file",
        "icon.ico": "not a JPEG, PNG",
        "large.png": "100 x 50 pixels, more than the limit of 4999",
        "null\0.png": "null",
    }
    for name, reason in expected.items():
        with pytest.raises(PhotoError, match=reason) as caught:
            load_photo(tmp_path / name, max_pixels=4999)
        assert "\n" not in str(caught.value)
    assert load_photo(tmp_path / "large.png", max_pixels=5000).image.shape == (1, 3, 50, 100)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".gif", ".webp", ".bmp"])
def test_cut_off_files_are_refused_unless_allowed(tmp_path: Path, suffix: str) -> None:
    source, cut = tmp_path / f"in{suffix}", tmp_path / f"cut{suffix}"
    Image.fromarray(data.astronaut()[:200, :300]).save(source)
    content = source.read_bytes()
    cut.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(PhotoError, match="damaged or cut off"):
        load_photo(cut)
    if suffix in (".tif", ".webp"):  # Pillow's TIFF has its directory last; WebP decodes all or nothing
        return
    photo = load_photo(cut, allow_truncated=True)
    assert "what could be read" in photo.notes[-1]
    difference = (photo.image - load_photo(source).image).abs().mean(dim=(0, 1, 3))
    assert (
        float(difference[:50].mean() if suffix != ".bmp" else difference[-50:].mean()) < 0.01
    )  # BMP begins at the bottom


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    Image.fromarray(data.astronaut()[:37, :53]).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IEND") - 6] ^= 1  # the checksum of the last IDAT
    path.write_bytes(content)
    with pytest.raises(PhotoError, match="checksum"):
        load_photo(path)
    assert load_photo(path, allow_truncated=True).image.shape == (1, 3, 37, 53)


def test_a_huge_header_is_refused_before_decoding(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I4s", 900, b"IDAT")
    )
    (tmp_path / "bomb.png").write_bytes(content + bytes(1000))
    with pytest.raises(PhotoError, match="60000 x 60000 pixels, more than the limit of 200000000"):
        load_photo(tmp_path / "bomb.png")


def test_threads_do_not_mix_what_they_allow(tmp_path: Path) -> None:
    """Whether Pillow takes cut-off files is a switch of the whole process."""
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    Image.fromarray(data.astronaut()).save(whole)
    cut.write_bytes(whole.read_bytes()[:20000])

    def refused(allow: bool) -> bool:
        try:
            load_photo(cut, allow_truncated=allow)
        except PhotoError:
            return True
        return False

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(refused, [False, True] * 20)) == [True, False] * 20


def iptc(caption: bytes) -> bytes:
    """An APP13 segment as photo archives write it: an IPTC caption (2:120) in Photoshop's resource 0x0404."""
    record = b"\x1c\x02\x78" + struct.pack(">H", len(caption)) + caption
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(record)) + record + bytes(len(record) % 2)
    data = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(data) + 2) + data


def test_captions_and_comments_stay_with_a_jpeg(tmp_path: Path) -> None:
    sample = Image.fromarray(np.zeros((16, 24, 3), np.uint8))
    sample.save(tmp_path / "a.jpg", comment=b"on the back: 1931", extra=iptc(b"Wedding in Graz"))
    photo = load_photo(tmp_path / "a.jpg")
    assert save_photo(photo.with_image(photo.image + 0.1), tmp_path / "b.jpg") == ()
    again = Image.open(tmp_path / "b.jpg")
    assert b"Wedding in Graz" in again.info["photoshop"][0x0404]
    assert again.info["comment"] == b"on the back: 1931"
    assert load_photo(tmp_path / "b.jpg").blocks == photo.blocks
    notes = save_photo(photo, tmp_path / "b.png")
    assert notes == ("PNG cannot hold what else its JPEG does, it was dropped: a comment, captions (IPTC)",)


@pytest.mark.parametrize("kind", ["<B", "<I", ">I"])
def test_captions_stay_with_a_tiff(kind: str, tmp_path: Path) -> None:
    """Many programs store them as 32-bit numbers, which change their bytes with the byte order of the file."""
    record = b"\x1c\x02\x78\x00\x10Wedding in Graz " + bytes(3)
    values = np.frombuffer(record, kind.replace(">", "<"))
    tag = (33723, 1 if kind == "<B" else 4, len(values), values.tolist(), True)
    sample = np.full((16, 24, 3), 99, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", sample, photometric="rgb", byteorder=kind[0], extratags=[tag])
    photo = load_photo(tmp_path / "a.tif")
    assert save_photo(photo.with_image(photo.image * 0.5), tmp_path / "b.tif") == ()
    with tifffile.TiffFile(tmp_path / "b.tif") as again:
        assert again.pages[0].tags[33723].value == record
    assert save_photo(photo, tmp_path / "b.png") == (
        "PNG cannot hold what else its TIFF does, it was dropped: captions (IPTC)",
    )


def test_texts_stay_with_a_png(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Author", "Anna Müller")
    texts.add_itxt("Description", "Hochzeit · 結婚", "de", "Beschreibung")
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "a.png", pnginfo=texts)
    photo = load_photo(tmp_path / "a.png")
    save_photo(photo, tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").text == Image.open(tmp_path / "a.png").text
    assert save_photo(photo, tmp_path / "b.webp") == ("WEBP cannot hold what else its PNG does, it was dropped: texts",)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_tiff_of_odd_depth_reaches_from_black_to_white(bits: int, tmp_path: Path) -> None:
    levels = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint16)[None].repeat(8, 0)
    tifffile.imwrite(tmp_path / "a.tif", levels, bitspersample=bits, photometric="minisblack")
    photo = load_photo(tmp_path / "a.tif")
    assert photo.bit_depth == 16
    assert np.abs(photo.image[0, 0].numpy() - levels / (2**bits - 1)).max() < 1e-4
    assert f"{bits} bits per channel were stretched to 16" in photo.notes


def test_a_file_of_several_pages_says_so_and_is_not_cut(tmp_path: Path) -> None:
    page = Image.fromarray(np.zeros((16, 24, 3), np.uint8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    photo = load_photo(tmp_path / "a.tif")
    assert photo.frames == 3
    with pytest.raises(PhotoError, match="it is the photo's own file, and would lose 2 further pages; choose"):
        save_photo(photo, tmp_path / "a.tif", overwrite=True)
    save_photo(photo, tmp_path / "b.tif")
    assert copy_photo(photo, tmp_path / "c.tif") == ("the file was copied, byte for byte",)
    assert (tmp_path / "c.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
    with pytest.raises(PhotoError, match="exists already"):
        copy_photo(photo, tmp_path / "c.tif")
