"""Make the picture of what each expert does: ``python docs/images/experts.py``.

Parts of scikit-image's photos at 100 %, each damaged by a recipe: as it is, what the expert makes of it, as it was.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw
from skimage import data

from conservator.degradations import degrade, parse_recipe
from conservator.image import Image, in_8_bits, to_array, to_image
from conservator.metrics.fidelity import psnr
from conservator.resample import bicubic_to
from conservator.tools import make_toolbox

HERE = Path(__file__).resolve().parent
SIDE, MARGIN, LINE = 224, 6, 16
"""Pixels of a part, between parts, and of a line of text."""
SEED = 3
SHOWN = (
    ("denoise_light", "astronaut", "noise:low", (20, 130)),
    ("denoise_medium", "coffee", "noise:medium", (90, 200)),
    ("denoise_heavy", "chelsea", "noise:very_high", (40, 100)),
    ("dejpeg_mild", "astronaut", "jpeg:low", (20, 130)),
    ("dejpeg_severe", "coffee", "jpeg:very_high", (90, 200)),
    ("derain", "astronaut", "rain:high", (20, 130)),
    ("deblur_defocus", "chelsea", "defocus_blur:medium,noise:low", (40, 100)),
    ("deblur", "coffee", "motion_blur:high,jpeg:low", (90, 200)),
    ("dehaze", "coffee", "haze:high", (90, 200)),
    ("brighten_mild", "chelsea", "low_light:medium", (40, 100)),
    ("brighten_dark", "astronaut", "low_light:very_high", (20, 130)),
    ("upscale_x2", "coffee", "low_resolution:low", (90, 200)),
    ("upscale_x4", "astronaut", "low_resolution:high", (20, 130)),
)
"""Tool, photo, damage, and where the part begins: down, across."""


def row(name: str, photo: str, recipe: str, at: tuple[int, int]) -> PillowImage.Image:
    """Damaged, treated, undamaged, with the PSNR (RGB, dB) of the whole photo."""
    clean = to_image(np.ascontiguousarray(getattr(data, photo)()))
    clean = clean[..., : clean.shape[-2] // 4 * 4, : clean.shape[-1] // 4 * 4]
    damaged = in_8_bits(degrade(clean, parse_recipe(recipe, SEED)))
    tool = make_toolbox("experts")[name]
    tool.setup("cpu")
    treated = tool(damaged)
    given = damaged if damaged.shape == clean.shape else bicubic_to(damaged, *clean.shape[-2:]).clamp(0, 1)
    drawn = PillowImage.new("RGB", (3 * SIDE + 2 * MARGIN, SIDE + LINE), "white")
    write = ImageDraw.Draw(drawn)
    texts = (f"{recipe}: {psnr(given, clean):.2f} dB", f"{name}: {psnr(treated, clean):.2f} dB", "the photo")
    for i, (image, text) in enumerate(zip((given, treated, clean), texts, strict=True)):
        left = i * (SIDE + MARGIN)
        write.text((left, 2), text, fill="black")
        drawn.paste(part(image, at), (left, LINE))
    return drawn


def part(image: Image, at: tuple[int, int]) -> PillowImage.Image:
    """SIDE by SIDE pixels of a photo (1, 3, H, W)."""
    top, left = at
    return PillowImage.fromarray(to_array(image[..., top : top + SIDE, left : left + SIDE], np.uint8))


def main() -> None:
    """Draw those that are in the toolbox."""
    there = make_toolbox("experts")
    rows = [row(*shown) for shown in SHOWN if shown[0] in there]
    sheet = PillowImage.new("RGB", (rows[0].width, sum(r.height + MARGIN for r in rows)), "white")
    for i, drawn in enumerate(rows):
        sheet.paste(drawn, (0, i * (drawn.height + MARGIN)))
    sheet.save(HERE / "experts.webp", quality=88, method=6)


if __name__ == "__main__":
    main()
