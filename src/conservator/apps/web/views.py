"""The pictures of the page: the whole photo, reduced to a screen, and a part of it at 100 %, without loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conservator.apps.web.visit import Visit
from conservator.image import Image
from conservator.pages import save_png, sized
from conservator.photo import load_photo

_LONG_SIDE = 1600
"""Pixels of the whole photo as it is shown: what a large screen has room for."""
_LEAST_SIDE, _MOST_SIDE = 160, 1600
"""Pixels of a side of the part at 100 %, whatever a browser says of its window."""


@dataclass(frozen=True)
class Detail:
    """A part of a photo, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Image) -> Image:
        """This part of an image (1, 3, H, W)."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


def part_around(place: tuple[float, float], size: tuple[int, int], room: tuple[float, float]) -> Detail:
    """The part of a photo of a ``size`` (height, width) that has ``room`` (likewise), around a place from 0 to 1."""
    tall, wide = (
        min(side, max(_LEAST_SIDE, min(_MOST_SIDE, round(want)))) for side, want in zip(size, room, strict=True)
    )
    top, left = (
        min(max(0, round(at * side - part / 2)), side - part)
        for at, side, part in zip(place, size, (tall, wide), strict=True)
    )
    return Detail(top, left, tall, wide)


def show_whole(visit: Visit, strength: float) -> tuple[str, str]:
    """PNGs of the whole photo before and after, of one size; their paths."""
    before, after = visit.pair(strength)
    size = _fitting(after)
    first = _saved(visit, sized(before, size))
    return first, first if after is before else _saved(visit, sized(after, size))


def show_part(visit: Visit, strength: float, room: tuple[float, float]) -> tuple[tuple[str, str], Detail]:
    """PNGs of the part at 100 % around the visit's place, before and after, and where it lies."""
    before, after = visit.pair(strength)
    height, width = after.shape[-2:]
    part = part_around(visit.place, (height, width), room)
    return (_saved(visit, part.of(before)), _saved(visit, part.of(after))), part


def show_files(visit: Visit, source: Path, result: Path) -> tuple[str, str]:
    """PNGs of two photos of the disk, of one size, the whole of each; raises PhotoError where one cannot be read."""
    first, second = load_photo(source), load_photo(result)
    size = _fitting(second.image)
    paths = []
    for photo in (first, second):
        path = visit.new_file(".png")
        save_png(sized(photo.working_image(), size), path, photo.icc)
        paths.append(str(path))
    return paths[0], paths[1]


def _fitting(image: Image) -> tuple[int, int]:
    """Height and width of the whole photo as it is shown."""
    height, width = image.shape[-2:]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))


def _saved(visit: Visit, image: Image) -> str:
    path = visit.new_file(".png")
    save_png(image, path, visit.checked().photo.icc)
    return str(path)
