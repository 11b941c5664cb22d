"""Before and after: the whole photo and some details of it, each pair of pictures under one slider."""

from __future__ import annotations

from html import escape

import torch
import torch.nn.functional as F

from conservator.image import Image
from conservator.pages.details import Place, find_places
from conservator.pages.pictures import jpeg_bytes, picture_uri, sized

_LONG_SIDE = 1400  # pixels of the pictures of the whole photo
_QUALITY = 85  # of their JPEG
_DETAIL = 512  # pixels of the side of a detail
_DETAILS = 4  # where most changed, besides the one where least did
_DETAIL_QUALITY = 92
_LARGEST_PICTURES = 2_000_000
"""Bytes of JPEG on one page; all details but one are left out beyond it. As text they are a third more, so that the
page of any photo, noise and nothing else at worst, stays below 3 MB: 22,000 scans have as many pages."""
_SMALL = 256  # pixels of the long side of a thumbnail, and of the map of the details
_SMALL_QUALITY = 75


def compared(before: Image, after: Image, profile: bytes | None) -> str:
    """HTML of a photo before and after: the whole and details at 100 %, each under a slider.

    The pictures stay below a bound of bytes whatever the photo's size. ``profile`` is the photo's colour profile.
    """
    size = _fitting(after, _LONG_SIDE)
    whole = [_whole(image, size, profile) for image in (before, after)]
    left = _LARGEST_PICTURES - sum(map(len, whole))
    return _pair(whole, size, "the whole photo") + _details(before, after, profile, left)


def one_picture(image: Image, profile: bytes | None) -> str:
    """HTML of one photo that stayed as it was."""
    height, width = size = _fitting(image, _LONG_SIDE)
    uri = picture_uri(_whole(image, size, profile))
    return f'<figure class="single"><img src="{uri}" alt="The photo" width="{width}" height="{height}"></figure>'


def thumbnail(before: Image, after: Image, profile: bytes | None) -> bytes:
    """Before and after side by side in one small JPEG; a page of many photos shows the one half or the other."""
    size = _fitting(after, _SMALL)
    both = torch.cat([sized(before, size), sized(after, size)], dim=3)
    return jpeg_bytes(both, quality=_SMALL_QUALITY, profile=profile, small=True)


def _whole(image: Image, size: tuple[int, int], profile: bytes | None) -> bytes:
    return jpeg_bytes(sized(image, size), quality=_QUALITY, profile=profile, small=True)


def _pair(pictures: list[bytes], size: tuple[int, int], what: str, caption: str = "", kind: str = "") -> str:
    """Two JPEGs under one slider, their captions above them, outside the picture."""
    before, after = map(picture_uri, pictures)
    shape = f'width="{size[1]}" height="{size[0]}"'
    note = f'<span class="where">{escape(caption)}</span>' if caption else ""
    return (
        f'<figure class="pair {kind}"><figcaption><span>before</span>{note}<span>after</span></figcaption>'
        f'<div class="compare" style="--width: {size[1]}">'
        f'<img src="{after}" {shape} alt="After: {escape(what)}">'
        f'<img class="before" src="{before}" {shape} alt="Before: {escape(what)}">'
        '<div class="edge"><i></i></div><input type="range" min="0" max="100" value="50" step="0.1" '
        f'aria-label="Slide between before and after: {escape(what)}"></div></figure>'
    )


def _details(before: Image, after: Image, profile: bytes | None, most_bytes: int) -> str:
    """Parts of the photo at 100 %, each with a slider, and a map of where they lie."""
    if before.shape != after.shape:
        before = F.interpolate(before, after.shape[-2:], mode="bicubic").clamp(0, 1)
    figures: list[str] = []
    shown: list[Place] = []
    for place in find_places(before, after, _DETAIL, _DETAILS):
        pair = [jpeg_bytes(place.of(image), quality=_DETAIL_QUALITY, profile=profile) for image in (before, after)]
        most_bytes -= sum(map(len, pair))
        if most_bytes < 0 and shown:
            break
        shown.append(place)
        number = len(shown)
        size = place.height, place.width
        figures.append(_pair(pair, size, f"detail {number}", _where(place, number), "detail"))
    if not shown:
        return ""
    told = "<p>One pixel of the photo is one pixel of the screen. The numbers say where the details lie.</p>"
    places = f'<div class="places">{told}{_map(after, shown, profile)}</div>'
    return f'<h2>Details at 100 %</h2><div class="details">{places}{"".join(figures)}</div>'


def _where(place: Place, number: int) -> str:
    told = "most" if number == 1 else "much" if place.most else "least"
    return f"{number}: {told} changed"


def _map(after: Image, places: list[Place], profile: bytes | None) -> str:
    """The photo, small, with a numbered frame for each detail."""
    height, width = after.shape[-2:]
    size = _fitting(after, _SMALL)
    frames = "".join(
        f'<i style="left: {100 * p.left / width:.2f}%; top: {100 * p.top / height:.2f}%; '
        f'width: {100 * p.width / width:.2f}%; height: {100 * p.height / height:.2f}%"><b>{number}</b></i>'
        for number, p in enumerate(places, 1)
    )
    uri = picture_uri(jpeg_bytes(sized(after, size), quality=_SMALL_QUALITY, profile=profile, small=True))
    return (
        f'<div class="map"><img src="{uri}" width="{size[1]}" height="{size[0]}" '
        f'alt="The photo with the places of the details"><div aria-hidden="true">{frames}</div></div>'
    )


def _fitting(image: Image, long_side: int) -> tuple[int, int]:
    """Height and width of the image, reduced to a long side where that is less."""
    height, width = image.shape[-2:]
    scale = min(1.0, long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
