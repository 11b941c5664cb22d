"""What a file carries beside its picture stays with a restored one, or is named; its own file is never destroyed."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from profiles import cmyk_profile
from skimage import data

from conservator.errors import PhotoError
from conservator.files import sha256
from conservator.photo import PHOTO_SUFFIXES, copy_photo, load_photo, save_photo
from conservator.record import make_record
from conservator.request import Request
from conservator.restorer import Restorer

RGB = np.ascontiguousarray(data.astronaut()[40:104, 100:196])
PICTURE = Image.fromarray(RGB)
COPIED = "the file was copied, byte for byte"
MOVIE = struct.pack(">I", 24) + b"ftypmp42" + bytes(12) + struct.pack(">I", 16) + b"mdat" + b"frames.."
XMP = b'<x:xmpmeta xmlns:Camera="http://ns.google.com/photos/1.0/camera/" Camera:MotionPhoto="1"/>'
OTHERS = {"save_all": True, "append_images": [PICTURE.rotate(90), PICTURE.rotate(180)]}
SIGNATURE, VIDEO = "a Content Credentials signature (C2PA)", "a video behind the picture"


def encoded(form: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(*segments: bytes, behind: bytes = b"") -> bytes:
    content = encoded("JPEG", quality=95)
    at = 4 + int.from_bytes(content[4:6], "big")
    return content[:at] + b"".join(segments) + content[at:] + behind


def resource(number: int, body: bytes, name: bytes = b"") -> bytes:
    name = bytes([len(name)]) + name
    return (
        b"8BIM"
        + struct.pack(">H", number)
        + name
        + bytes(len(name) % 2)
        + struct.pack(">I", len(body))
        + body
        + bytes(len(body) % 2)
    )


def photoshop(*resources: bytes) -> bytes:
    return segment(0xED, b"Photoshop 3.0\0" + b"".join(resources))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, behind: bytes = b"", **options: object) -> bytes:
    content = encoded("PNG", **options)
    return content[:33] + b"".join(chunks) + content[33:] + behind


def webp(kind: bytes, body: bytes, behind: bytes = b"") -> bytes:
    content = encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    content += kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:] + behind


def stored(pixels: NDArray[np.generic], **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", metadata=None, **options)
    return file.getvalue()


def tiff(*tags: tuple[object, ...]) -> bytes:
    return stored(RGB, extratags=[(*tag, True) for tag in tags])


def pages(*several: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in several:
            writer.write(page, photometric="rgb", metadata=None)
    return file.getvalue()


def with_thumbnail() -> bytes:
    block = Image.Exif()
    block[0x010F] = "Zeiss Ikon"
    whole, small = block.tobytes(), encoded("JPEG", PICTURE.resize((16, 12)))
    entries = struct.pack(">H", 2) + struct.pack(">HHII", 0x201, 4, 1, len(whole) - 6 + 30)
    entries += struct.pack(">HHII", 0x202, 4, 1, len(small)) + bytes(4)
    order = ">" if whole[6:8] == b"MM" else "<"
    if order == "<":
        entries = struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, len(whole) - 6 + 30, 0x202, 4, 1, len(small), 0)
    after = 6 + struct.unpack_from(order + "I", whole, 10)[0] + 2 + 12
    whole = whole[:after] + struct.pack(order + "I", len(whole) - 6) + whole[after + 4 :]
    return encoded("JPEG", exif=whole + entries + small)


EXTENDED = b"<x:xmpmeta>" + b"QUJD" * 40000 + b"</x:xmpmeta>"
GUID = hashlib.md5(EXTENDED).hexdigest().upper().encode()
EXTENDED_XMP = [
    segment(
        0xE1,
        b"http://ns.adobe.com/xmp/extension/\0"
        + GUID
        + struct.pack(">II", len(EXTENDED), at)
        + EXTENDED[at : at + 60000],
    )
    for at in range(0, len(EXTENDED), 60000)
]
CAPTION = resource(0x0404, b"\x1c\x02\x78\x00\x07Wedding")
PATH = resource(2000, bytes(26), b"Bride")
GAMMA = chunk(b"gAMA", struct.pack(">I", 100000))
HDR = chunk(b"cICP", b"\x09\x10\x00\x01")
SAFE, UNSAFE = chunk(b"prVs", b"private"), chunk(b"prVS", b"private")

KEPT: dict[str, tuple[str, Callable[[], bytes], list[bytes], str]] = {
    "extended XMP": (".jpg", lambda: jpeg(*EXTENDED_XMP), EXTENDED_XMP, "extended XMP"),
    "several comments": (
        ".jpg",
        lambda: jpeg(segment(0xFE, b"one"), segment(0xFE, b"two")),
        [segment(0xFE, b"one"), segment(0xFE, b"two")],
        "a comment",
    ),
    "paths and captions": (".jpg", lambda: jpeg(photoshop(PATH, CAPTION)), [PATH, CAPTION], "captions (IPTC)"),
    "captions in two segments": (
        ".jpg",
        lambda: jpeg(photoshop(PATH, CAPTION[:15]), segment(0xED, b"Photoshop 3.0\0" + CAPTION[15:])),
        [PATH + CAPTION],
        "captions (IPTC)",
    ),
    "gamma": (".png", lambda: png(GAMMA), [GAMMA], "how its colours are meant"),
    "HDR": (".png", lambda: png(HDR), [HDR], "how its colours are meant"),
    "sRGB": (".png", lambda: png(chunk(b"sRGB", b"\0")), [chunk(b"sRGB", b"\0")], ""),
    "unknown, may be copied": (".png", lambda: png(SAFE), [SAFE], "the chunk prVs"),
    "captions of a TIFF": (
        ".tif",
        lambda: tiff((34377, 7, len(PATH + CAPTION), PATH + CAPTION)),
        [PATH + CAPTION],
        "captions (IPTC)",
    ),
}


@pytest.mark.parametrize(("suffix", "make", "kept", "name"), KEPT.values(), ids=KEPT)
def test_what_stays_true_stays_in_the_format_and_is_named_in_another(
    suffix: str, make: Callable[[], bytes], kept: list[bytes], name: str, tmp_path: Path
) -> None:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(make())
    photo = load_photo(source)
    assert (photo.notes, photo.lost) == ((), ())
    treated = photo.with_image(photo.image * 0.9)
    assert save_photo(treated, tmp_path / f"out{suffix}") == ()
    content = (tmp_path / f"out{suffix}").read_bytes()
    assert all(content.count(part) == 1 for part in kept)
    assert load_photo(tmp_path / f"out{suffix}").blocks == photo.blocks
    assert np.abs(np.asarray(Image.open(tmp_path / f"out{suffix}")) - RGB * 0.9).mean() < 3
    said = save_photo(treated, tmp_path / "out.webp")
    assert said == ((f"WEBP cannot hold what else its {photo.format} does, it was dropped: {name}",) if name else ())
    assert save_photo(treated, source, overwrite=True) == ()  # nothing is destroyed


def mpo() -> bytes:
    return encoded("MPO", **OTHERS)


GAIN_MAP = jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<hdrgm:Version/>"))
XMP_SEGMENT = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
XMP_OF_GIF = b"!\xff\x0bXMP DataXMP" + XMP + b"\1" + bytes(range(255, -1, -1)) + b"\0"
MAKER = "its maker's picture information (APP12)"
LOST: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a signature": (".jpg", lambda: jpeg(segment(0xEB, b"JP\0\1\0\0\0\1jumbjumdc2pa")), SIGNATURE),
    "JUMBF": (".jpg", lambda: jpeg(segment(0xEB, b"JP\0\1\0\0\0\1jumbjumd360")), "JUMBF data (APP11)"),
    "FlashPix": (".jpg", lambda: jpeg(segment(0xE2, b"FPXR\0\0\1")), "FlashPix data"),
    "an unknown segment": (".jpg", lambda: jpeg(segment(0xE7, b"Qualcomm\0\x1b[31m")), "the segment APP7 (Qualcomm)"),
    "picture information": (".jpg", lambda: jpeg(segment(0xEC, b"[picture info]")), MAKER),
    "a gain map": (".jpg", lambda: jpeg(behind=GAIN_MAP), "a gain map (for HDR screens)"),
    "a video": (".jpg", lambda: jpeg(XMP_SEGMENT, behind=MOVIE), VIDEO),
    "a video in a trailer": (".jpg", lambda: jpeg(behind=b"MotionPhoto_Data" + MOVIE + b"SEFH"), VIDEO),
    "a picture": (".jpg", lambda: jpeg(behind=jpeg()), "a further picture"),
    "several pictures": (".jpg", mpo, "a further picture"),
    "bytes": (".jpg", lambda: jpeg(behind=b"hidden"), "6 bytes behind the end of the picture"),
    "a signature in PNG": (".png", lambda: png(chunk(b"caBX", b"c2pa")), SIGNATURE),
    "an unknown chunk": (".png", lambda: png(UNSAFE), "the chunk prVS"),
    "bytes behind a PNG": (".png", lambda: png(behind=b"hidden"), "6 bytes behind the end of the picture"),
    "frames of a PNG": (".png", lambda: png(**OTHERS), "2 further frames"),
    "an unknown chunk of WebP": (".webp", lambda: webp(b"ABCD", b"x"), "the chunk ABCD"),
    "a signature in WebP": (".webp", lambda: webp(b"C2PA", b"x"), SIGNATURE),
    "a video behind a WebP": (".webp", lambda: webp(b"ABCD", b"", MOVIE), VIDEO),
    "frames of a WebP": (".webp", lambda: encoded("WEBP", **OTHERS), "2 further frames"),
    "frames of a GIF": (".gif", lambda: encoded("GIF", **OTHERS), "2 further frames"),
    "an application's data": (
        ".gif",
        lambda: encoded("GIF")[:-1] + b"!\xff\x0bGEOMAPS1abc\x02xy\0;",
        "the application's data GEOMAPS1",
    ),
    "XMP of a GIF": (".gif", lambda: encoded("GIF")[:-1] + XMP_OF_GIF + b";", "XMP data"),
    "pages": (".tif", lambda: pages(RGB, RGB[::-1], RGB), "2 further pages"),
    "a private tag": (".tif", lambda: tiff((65000, 4, 1, 7)), "the private tag 65000"),
    "layers": (".tif", lambda: tiff((37724, 7, 4, b"8BIM")), "Photoshop's layers"),
    "infrared": (
        ".tif",
        lambda: stored(np.dstack([RGB, RGB[..., 0]]), extrasamples=["unspecified"]),
        "a channel besides colour and alpha",
    ),
    "numbers": (".tif", lambda: stored((RGB / 255).astype(np.float32)), "floating-point values"),
    "inks": (".jpg", lambda: encoded("JPEG", PICTURE.convert("CMYK")), "its CMYK values"),
}
if ".avif" in PHOTO_SUFFIXES:
    LOST["a box of AVIF"] = (
        ".avif",
        lambda: encoded("AVIF") + struct.pack(">I", 12) + b"wxyz" + bytes(4),
        "the box wxyz",
    )


@pytest.mark.parametrize(("suffix", "make", "name"), LOST.values(), ids=LOST)
def test_what_cannot_stay_is_named_and_its_own_file_not_destroyed(
    suffix: str, make: Callable[[], bytes], name: str, tmp_path: Path
) -> None:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(make())
    photo = load_photo(source)
    assert name in photo.lost
    assert photo.notes
    treated = photo.with_image(photo.image * 0.9)
    with pytest.raises(
        PhotoError, match=r"it is the photo's own file, and would lose .*; choose another name"
    ) as caught:
        save_photo(treated, source, overwrite=True)
    assert name in str(caught.value)
    assert source.read_bytes() == make()
    save_photo(treated, tmp_path / f"out{suffix}")
    again = load_photo(tmp_path / f"out{suffix}")
    assert again.lost == ()
    assert b'MotionPhoto="1' not in (again.xmp or b"")  # it does not claim to hold what it lost
    assert copy_photo(photo, tmp_path / f"copy{suffix}") == (COPIED,)
    assert (tmp_path / f"copy{suffix}").read_bytes() == make()


OUTDATED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "thumbnail of EXIF": (".jpg", with_thumbnail, "a thumbnail"),
    "thumbnail of JFIF": (".jpg", lambda: jpeg(segment(0xE0, b"JFXX\0\x13" + bytes(5))), "a thumbnail"),
    "thumbnail of Photoshop": (".jpg", lambda: jpeg(photoshop(resource(1036, bytes(40)))), "a thumbnail"),
    "time": (".png", lambda: png(chunk(b"tIME", bytes(7))), "the time of its last change"),
    "bits that counted": (".png", lambda: png(chunk(b"sBIT", b"\5\6\5")), "how many of its bits counted"),
    "background": (".png", lambda: png(chunk(b"bKGD", bytes(6))), "a colour to show behind it"),
    "smaller pages": (".tif", lambda: pages(RGB[::4, ::4], RGB), "a smaller copy of it"),
}


@pytest.mark.parametrize(("suffix", "make", "name"), OUTDATED.values(), ids=OUTDATED)
def test_what_shows_the_old_pixels_is_left_out_and_said(
    suffix: str, make: Callable[[], bytes], name: str, tmp_path: Path
) -> None:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(make())
    photo = load_photo(source)
    assert f"left out, because it shows or describes the old pixels: {name}" in photo.notes
    assert photo.lost == ()
    save_photo(photo.with_image(photo.image * 0.9), source, overwrite=True)
    assert load_photo(source).notes == ()


def test_padding_behind_a_picture_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(jpeg(behind=bytes(4096)))
    assert load_photo(tmp_path / "in.jpg").notes == ()


def test_names_out_of_a_file_do_not_reach_a_terminal_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(jpeg(segment(0xE7, b"\x1b[31mred"), segment(0xE8, b"a" * 60000)))
    notes = " ".join(load_photo(tmp_path / "in.jpg").notes)
    assert notes.isprintable()
    assert len(notes) < 200


def test_comments_stay_with_a_gif(tmp_path: Path) -> None:
    PICTURE.quantize(32).save(tmp_path / "in.gif", comment=b"on the back: 1931")
    photo = load_photo(tmp_path / "in.gif")
    save_photo(photo.with_image(photo.image * 0.9), tmp_path / "out.gif")
    assert Image.open(tmp_path / "out.gif").info["comment"] == b"on the back: 1931"


def test_damaged_captions_cost_no_pixels(tmp_path: Path) -> None:
    broken = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", 2**31) + b"Wedding")
    (tmp_path / "in.jpg").write_bytes(jpeg(broken))
    photo = load_photo(tmp_path / "in.jpg")
    assert photo.lost == ("damaged captions (IPTC)",)
    assert np.abs(photo.image[0].permute(1, 2, 0).numpy() * 255 - RGB).mean() < 4


@pytest.mark.parametrize(("form", "suffix"), [("PNG", ".jpg"), ("JPEG", ".tif"), ("TIFF", ".png"), ("WEBP", ".jpeg")])
def test_a_file_with_the_suffix_of_another_format(form: str, suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(encoded(form))
    photo = load_photo(source)
    assert f"its name ends in {suffix}, but it is a {form} file" in photo.notes
    said = copy_photo(photo, tmp_path / f"out{suffix}")
    assert said == (COPIED, f"it is a {form} file, although its name ends in {suffix}")
    assert (tmp_path / f"out{suffix}").read_bytes() == source.read_bytes()
    right = tmp_path / {"PNG": "a.png", "JPEG": "a.jpeg", "TIFF": "a.tif", "WEBP": "a.webp"}[form]
    assert copy_photo(photo, right) == (COPIED,)
    with pytest.raises(PhotoError, match=f"it is the photo's own file, a {form} that is no .*; choose another name"):
        save_photo(photo, source, overwrite=True)


def test_texts_of_a_png_survive_with_everything_else(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Author", "Anna Müller")
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    (tmp_path / "in.png").write_bytes(png(GAMMA, pnginfo=texts))
    photo = load_photo(tmp_path / "in.png")
    save_photo(photo.with_image(photo.image * 0.9), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as other:
        assert other.text["Author"] == "Anna Müller"
        assert other.info["gamma"] == 1.0
        assert other.info["xmp"] == XMP.replace(b'"1"', b'"0"')


@pytest.mark.parametrize("damage", ["cut", "exif"])
def test_a_damaged_file_is_not_replaced_by_what_could_be_read_of_it(damage: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jpg"
    broken = segment(0xE1, b"Exif\0\0XX*\0 what is left of a camera's notes")
    source.write_bytes(jpeg()[:2000] if damage == "cut" else jpeg(broken))
    photo = load_photo(source, allow_truncated=True)
    with pytest.raises(
        PhotoError, match=r"would lose (what could not be read of it|its damaged EXIF data); choose another"
    ):
        save_photo(photo, source, overwrite=True)
    save_photo(photo, tmp_path / "out.jpg")


def test_a_file_is_not_replaced_by_less_than_it_holds(tmp_path: Path) -> None:
    """A profile that leads from inks to colours alone: the result would be RGB."""
    source, one_way = tmp_path / "in.jpg", cmyk_profile("Inks").replace(b"B2A", b"xxx")
    source.write_bytes(encoded("JPEG", PICTURE.convert("CMYK"), icc_profile=one_way))
    photo = load_photo(source)
    assert photo.lost == ()
    with pytest.raises(PhotoError, match=r"own file, and its CMYK profile has no way back from sRGB: written as sRGB;"):
        save_photo(photo, source, overwrite=True)
    assert source.read_bytes() == encoded("JPEG", PICTURE.convert("CMYK"), icc_profile=one_way)


def test_the_record_of_a_copy_says_what_the_copy_is(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jpg", tmp_path / "out.jpg"
    source.write_bytes(imagecodecs.png_encode(RGB.astype(np.uint16) * 257))
    with Restorer(Request(policy="none")) as restorer:
        photo = restorer.load(source)
        restored = restorer.restore(photo)
        notes = restored.save(target)
        record = make_record(restored, photo, target, restorer.request, restorer.toolbox, notes, sha256(source))
    assert (record.output.format, record.output.bit_depth, record.output.sha256) == ("PNG", 16, record.input.sha256)
    assert notes == (COPIED, "it is a PNG file, although its name ends in .jpg")


DAMAGED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "EXIF": (".jpg", lambda: jpeg(segment(0xE1, b"Exif\0\0II*\0" + bytes([255] * 300)))),
    "XMP": (".jpg", lambda: jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmp\xff\0"))),
    "extended XMP": (".jpg", lambda: jpeg(segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0short"))),
    "profile": (".jpg", lambda: jpeg(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200)))),
    "profile in parts": (".jpg", lambda: jpeg(segment(0xE2, b"ICC_PROFILE\0\2\7" + bytes(200)))),
    "list of pictures": (
        ".jpg",
        lambda: jpeg(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0\2\xb0\7\0\xff\0\0\0\xff\xff\0\0")),
    ),
    "empty list of pictures": (".jpg", lambda: jpeg(segment(0xE2, b"MPF\0"))),
    "Photoshop's": (".jpg", lambda: jpeg(segment(0xED, b"Photoshop 3.0\08BIM\4\4\xff"))),
    "short segments": (".jpg", lambda: jpeg(*(segment(0xE0 + i, b"") for i in range(16)))),
    "profile of a PNG": (".png", lambda: png(chunk(b"iCCP", b"name\0\0no zlib"))),
    "texts of a PNG": (".png", lambda: png(chunk(b"zTXt", b"Author\0\0no zlib"), chunk(b"iTXt", b"x"))),
    "EXIF of a PNG": (".png", lambda: png(chunk(b"eXIf", b"XX"))),
    "EXIF of a WebP": (".webp", lambda: encoded("WEBP", exif=b"Exif\0\0II*\0" + bytes([255] * 30), lossless=True)),
    "captions of a TIFF": (
        ".tif",
        lambda: tiff((33723, 7, 4, b"abcd")).replace(b"\xbb\x83\7\0\4\0\0\0", b"\xbb\x83\7\0\0\0\0\xf0"),
    ),
    "EXIF of a TIFF": (".tif", lambda: tiff((34665, 4, 1, 2**31))),
    "XMP of a TIFF": (".tif", lambda: tiff((700, 7, 3, b"<x\xff"))),
}


@pytest.mark.parametrize(("suffix", "make"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_metadata_never_costs_the_picture(suffix: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / f"in{suffix}").write_bytes(make())
    photo = load_photo(tmp_path / f"in{suffix}")
    assert np.abs(photo.image[0].permute(1, 2, 0).numpy() * 255 - RGB).mean() < 4
    for target in (".jpg", ".png", ".tif", ".webp"):
        save_photo(photo.with_image(photo.image * 0.9), tmp_path / f"out{target}")
        assert load_photo(tmp_path / f"out{target}").image.shape == photo.image.shape
