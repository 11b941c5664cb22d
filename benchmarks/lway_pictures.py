"""Make the pictures of LWay's pages again: ``python benchmarks/lway_pictures.py PHOTOS``.

PHOTOS is a folder of clean photos, whose codes are drawn; the photos that are shown are scikit-image's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw
from skimage import data

from conservator.adapting import Manner
from conservator.degradations import (
    BlurredReduction,
    GaussianNoise,
    JpegCompression,
    LowResolution,
    Recipe,
    degrade,
)
from conservator.image import Image, in_8_bits, to_array, to_image
from conservator.metrics.fidelity import psnr
from conservator.networks.lway import DegradationTransfer
from conservator.networks.store import NetworkStore
from conservator.photo import find_photos, load_photo
from conservator.resample import bicubic_to
from conservator.tools import make_toolbox
from conservator.tools.degraded import load_transfer, look_at
from conservator.tools.lway import adapt

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
DAMAGES: dict[str, tuple[Recipe, str]] = {
    "only reduced": ((LowResolution(2),), "#222222"),
    "blur 1.2": ((BlurredReduction(2, 1.2, 1.2, 0.0),), "#1f77b4"),
    "blur 2.4": ((BlurredReduction(2, 2.4, 2.4, 0.0),), "#17becf"),
    "slanting blur 3.2 and 0.8": ((BlurredReduction(2, 3.2, 0.8, 30.0),), "#9467bd"),
    "noise 8": ((LowResolution(2), GaussianNoise(8 / 255, 1)), "#d62728"),
    "JPEG 50": ((LowResolution(2), JpegCompression(50)), "#2ca02c"),
}
SHOWN: dict[str, tuple[NDArray[np.uint8], tuple[int, int], Recipe]] = {
    "blur 1.2": (data.astronaut(), (60, 170), (BlurredReduction(2, 1.2, 1.2, 0.0),)),
    "blur 1.8": (data.coffee(), (150, 200), (BlurredReduction(2, 1.8, 1.8, 0.0),)),
    "blur 2.4": (data.page(), (40, 100), (BlurredReduction(2, 2.4, 2.4, 0.0),)),
    "slanting 2.4, 1.0": (data.rocket(), (200, 260), (BlurredReduction(2, 2.4, 1.0, 30.0),)),
    "blur 1.2, noise 6": (data.camera(), (80, 180), (BlurredReduction(2, 1.2, 1.2, 0.0), GaussianNoise(6 / 255, 0))),
    "blur 1.2, JPEG 75": (data.chelsea(), (70, 130), (BlurredReduction(2, 1.2, 1.2, 0.0), JpegCompression(75))),
}
ITERATIONS = (5, 10, 20, 40, 80)
SIDE, EDGE = 150, 4


def even(picture: NDArray[np.uint8]) -> Image:
    """The photo as an image, its sides even."""
    return to_image(np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]))


def draw_codes(photos: Sequence[Path], transfer: DegradationTransfer, path: Path) -> None:
    """Codes of four parts of each photo, degraded in several ways, along their two principal axes.

    Prints how often the part of another photo whose code is nearest was degraded in the same way.
    """
    codes, damages, whose = [], [], []
    for number, file in enumerate(photos):
        clean = load_photo(file).image
        clean = clean[..., : clean.shape[-2] // 4 * 4, : clean.shape[-1] // 4 * 4]
        for damage, (recipe, _) in DAMAGES.items():
            small = in_8_bits(degrade(clean, recipe))
            for part in (q for half in small.chunk(2, 2) for q in half.chunk(2, 3)):
                with torch.no_grad():
                    codes.append(transfer.encoder(part)[0].numpy())
                damages.append(damage)
                whose.append(number)
    points = np.stack(codes) - np.mean(codes, 0)
    _, _, axes = np.linalg.svd(points, full_matrices=False)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    same_photo = np.array(whose)[:, None] == np.array(whose)[None]
    same = np.array(damages)[:, None] == np.array(damages)[None]
    other = ~np.eye(len(points), dtype=bool)
    nearest = np.where(same_photo, np.inf, distance).argmin(1)
    print(f"nearest part of another photo has the same damage: {same[np.arange(len(points)), nearest].mean():.0%}")
    print(f"mean distance of parts of one photo, one damage: {distance[same_photo & same & other].mean():.2f}")
    print(f"the same of one photo, different damages: {distance[same_photo & ~same].mean():.2f}")
    print(f"of different photos, one damage: {distance[~same_photo & same].mean():.2f}")

    flat = points @ axes[:2].T
    low, high = flat.min(0), flat.max(0)
    width, height, margin = 900, 560, 30
    picture = PillowImage.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    placed = margin + (flat - low) / (high - low) * (np.array([width - 240, height]) - 2 * margin)
    for start in range(0, len(placed), 4):  # the four parts of one photo hang together
        colour = DAMAGES[damages[start]][1]
        four = [tuple(map(float, point)) for point in placed[start : start + 4]]
        centre = tuple(np.mean(four, 0))
        for x, y in four:
            draw.line([centre, (x, y)], fill="#cccccc")
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
    for line, (damage, (_, colour)) in enumerate(DAMAGES.items()):
        draw.ellipse([width - 210, 40 + 28 * line, width - 200, 50 + 28 * line], fill=colour)
        draw.text((width - 190, 37 + 28 * line), damage, fill="black", font_size=14)
    picture.save(path, quality=90, method=6)


def draw_iterations(transfer: DegradationTransfer, path: Path) -> None:
    """Six photos enlarged: bicubic, alone, adapted more and more, and the photo that was reduced; parts at 100 %."""
    network = make_toolbox("experts")["upscale_x2"].network(NetworkStore(), "cpu")  # type: ignore[attr-defined]
    head = ["bicubic", "alone", *(f"{n} iterations" for n in ITERATIONS), "reference"]
    left, top, line = 16, 30, SIDE + 26
    sheet = PillowImage.new("RGB", (left + len(head) * (SIDE + EDGE), top + len(SHOWN) * line), "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(head):
        draw.text((left + column * (SIDE + EDGE), 8), text, fill="black", font_size=14)
    for row, (name, (picture, (y, x), recipe)) in enumerate(SHOWN.items()):
        large = even(picture)
        small = in_8_bits(degrade(large, recipe))
        degraded = look_at(small, transfer)
        made = [bicubic_to(small, *large.shape[-2:])]
        networks = [network]
        for iterations in ITERATIONS:
            manner = Manner(iterations=iterations, patience=ITERATIONS[-1])
            networks.append(adapt(network, 2, [degraded], transfer, manner).network)
        with torch.no_grad():
            made += [one(small).clamp(0, 1) for one in networks]
        figures = [*(psnr(image, large) for image in made), None]
        for column, (image, figure) in enumerate(zip([*made, large], figures, strict=True)):
            crop = to_array(image[..., y : y + SIDE, x : x + SIDE], np.uint8)
            place = left + column * (SIDE + EDGE), top + row * line
            sheet.paste(PillowImage.fromarray(crop), place)
            told = name if figure is None else f"{figure:.2f} dB"
            draw.text((place[0], place[1] + SIDE + 3), told, fill="black", font_size=13)
        print(f"{name}: {', '.join(f'{f:.2f}' for f in figures if f is not None)}")
    sheet.save(path, quality=88, method=6)


def main() -> None:
    """Make both pictures anew."""
    transfer = load_transfer(NetworkStore(), "cpu")
    draw_codes(find_photos(Path(sys.argv[1]))[:16], transfer, IMAGES / "lway_codes.webp")
    draw_iterations(transfer, IMAGES / "lway_iterations.webp")


if __name__ == "__main__":
    main()
