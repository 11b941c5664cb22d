"""Undamaged pictures that no camera took, drawn from a random generator: what looks like damage, and is none.

Every drawing is 480 pixels high and 640 wide, RGB in 8 bits, and its generator fixes every pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from scipy import ndimage

Pixels: TypeAlias = NDArray[np.uint8]
"""(480, 640, 3)."""
Colour: TypeAlias = tuple[int, int, int]

HEIGHT, WIDTH = 480, 640
_FINER = 3  # lines and arcs are drawn so many times as large, then reduced, for smooth edges
_WORDS = [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "was",
    "he",
    "for",
    "it",
    "with",
    "as",
    "his",
    "on",
    "be",
    "at",
    "by",
    "had",
    "not",
    "are",
    "but",
    "from",
    "or",
    "have",
    "an",
    "they",
    "which",
    "one",
    "you",
    "were",
    "her",
    "all",
    "she",
    "there",
    "would",
    "their",
    "we",
    "him",
    "been",
    "has",
    "when",
    "who",
    "will",
    "more",
    "no",
    "if",
    "out",
    "so",
    "said",
    "what",
    "up",
    "its",
    "about",
    "into",
    "than",
    "them",
    "can",
    "only",
    "other",
    "new",
    "some",
    "could",
    "time",
    "these",
    "two",
    "may",
    "then",
    "do",
    "first",
    "any",
    "my",
    "now",
    "such",
    "like",
    "our",
    "over",
    "man",
    "me",
    "even",
    "most",
    "made",
    "after",
    "also",
    "did",
    "many",
    "before",
    "must",
    "through",
    "years",
    "where",
    "much",
    "your",
    "way",
    "well",
    "down",
    "should",
    "because",
    "each",
    "just",
    "those",
    "people",
    "archive",
    "letter",
    "harbour",
    "winter",
    "garden",
    "bridge",
    "portrait",
    "station",
    "negative",
    "lantern",
    "orchard",
]


def stripes(rng: np.random.Generator) -> Pixels:
    """Four fields of a test chart: gratings, checks, zone plates and stars, down to two pixels a line."""
    rows, columns = np.mgrid[0 : HEIGHT // 2, 0 : WIDTH // 2].astype(float)
    fields = [_field(rng, rows, columns) for _ in range(4)]
    wave = np.block([[fields[0], fields[1]], [fields[2], fields[3]]])
    dark, light = rng.uniform(0, 0.25, 3), rng.uniform(0.75, 1, 3)
    return _pixels(dark + wave[..., None] * (light - dark))


def _field(rng: np.random.Generator, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """One field, 0 to 1."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 14)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    y, x = rows - rows.mean(), columns - columns.mean()
    waves: tuple[NDArray[np.float64], ...] = (
        np.sin(2 * np.pi * along / period),
        np.where(along % max(4.0, round(period)) < max(4.0, round(period)) / 2, 1.0, -1.0),
        np.where((rows // round(period) + columns // round(period)) % 2 < 1, 1.0, -1.0),
        np.sin(np.pi * (x**2 + y**2) / (2 * rng.uniform(160, 320))),
        np.tanh(8 * np.sin(rng.integers(12, 48) * np.arctan2(y, x))),
    )
    return 0.5 + 0.5 * waves[rng.integers(len(waves))]


def scanned_text(rng: np.random.Generator) -> Pixels:
    """A page of text on toned paper, with the slight texture and the uneven light of a scan."""
    paper = np.array([1.0, rng.uniform(0.95, 0.99), rng.uniform(0.84, 0.97)]) * rng.uniform(0.88, 0.98)
    sheet = PillowImage.new("L", (WIDTH, HEIGHT), 0)
    draw, size = ImageDraw.Draw(sheet), int(rng.integers(11, 19))
    font = ImageFont.load_default(size)
    left, top, pitch = int(rng.integers(20, 60)), int(rng.integers(15, 50)), round(size * rng.uniform(1.3, 1.7))
    for line in range(top, HEIGHT - size - 10, pitch):
        if rng.random() > 0.1:  # the others are ends of paragraphs
            draw.text((left, line), _line(rng, font, WIDTH - 2 * left), fill=255, font=font)
    tilt = sheet.rotate(rng.uniform(-0.8, 0.8), PillowImage.Resampling.BICUBIC)
    ink = np.asarray(tilt, float)[..., None] / 255 * rng.uniform(0.75, 0.92)
    fibres = ndimage.gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), 1.2)
    light = _clouds(rng, 120)
    return _pixels(paper * (1 - ink) + (0.004 * fibres / fibres.std() + 0.02 * light)[..., None])


def _line(rng: np.random.Generator, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    text = ""
    while True:
        longer = f"{text} {_WORDS[rng.integers(len(_WORDS))]}".strip()
        if font.getlength(longer) > width:
            return text.capitalize()
        text = longer


def screenshot(rng: np.random.Generator) -> Pixels:
    """Windows with title bars, buttons and text on a plain or shaded desktop."""
    top, bottom = (rng.integers(0, 256, 3) for _ in range(2))
    shade = np.linspace(top, bottom if rng.random() < 0.5 else top, HEIGHT)[:, None]
    picture = PillowImage.fromarray(np.broadcast_to(shade, (HEIGHT, WIDTH, 3)).astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(int(rng.integers(10, 15)))
    for _ in range(rng.integers(2, 5)):
        x, y = int(rng.integers(0, 360)), int(rng.integers(0, 260))
        wide, high = int(rng.integers(200, 400)), int(rng.integers(130, 300))
        dark = rng.random() < 0.4
        back, ink = ((32, 33, 36), (225, 225, 225)) if dark else ((250, 250, 250), (30, 30, 30))
        draw.rectangle((x, y, x + wide, y + high), fill=back, outline=(120, 120, 120))
        draw.rectangle((x, y, x + wide, y + 22), fill=_colour(rng, 40, 200))
        draw.text((x + 8, y + 4), _line(rng, font, wide // 2), fill=(255, 255, 255), font=font)
        for line in range(y + 30, y + high - 44, 17):
            draw.text((x + 10, line), _line(rng, font, wide - 24), fill=ink, font=font)
        for button in range(x + 10, x + wide - 70, 80):
            draw.rounded_rectangle((button, y + high - 26, button + 64, y + high - 8), 5, fill=_colour(rng, 60, 230))
    return np.asarray(picture).copy()


def pixel_art(rng: np.random.Generator) -> Pixels:
    """Mirrored figures of a few colours on a tiled ground; each of their pixels is eight wide."""
    palette = rng.integers(0, 256, (int(rng.integers(6, 14)), 3))
    small = np.zeros((60, 80), int)
    tile = rng.integers(0, 2, (6, 8))
    small[:] = np.tile(tile, (10, 10))
    for _ in range(rng.integers(8, 20)):
        half = rng.random((int(rng.integers(6, 14)), int(rng.integers(3, 7)))) < 0.6
        figure = np.hstack([half, half[:, ::-1]])
        y, x = (int(rng.integers(0, whole - side)) for whole, side in zip(small.shape, figure.shape, strict=True))
        part = small[y : y + figure.shape[0], x : x + figure.shape[1]]
        part[figure] = rng.integers(2, len(palette))
    return palette[small].astype(np.uint8).repeat(8, 0).repeat(8, 1)


def line_art(rng: np.random.Generator) -> Pixels:
    """Ink on white: curves, closed shapes and hatching."""
    sheet = PillowImage.new("L", (WIDTH * _FINER, HEIGHT * _FINER), 255)
    draw = ImageDraw.Draw(sheet)
    for _ in range(rng.integers(12, 30)):
        ends = rng.uniform((-50, -50), (WIDTH + 50, HEIGHT + 50), (4, 2)) * _FINER
        t = np.linspace(0, 1, 80)[:, None]
        curve = (1 - t) ** 3 * ends[0] + 3 * t * (1 - t) ** 2 * ends[1] + 3 * t**2 * (1 - t) * ends[2] + t**3 * ends[3]
        draw.line([tuple(point) for point in curve], fill=0, width=int(rng.integers(2, 9)), joint="curve")
    for _ in range(rng.integers(2, 6)):
        x, y = (int(v) for v in rng.uniform((0, 0), (WIDTH - 160, HEIGHT - 120)) * _FINER)
        step, length = int(rng.integers(9, 24)), int(rng.integers(90, 330))
        for shift in range(0, 420, step):
            draw.line((x + shift, y, x + shift - length // 3, y + length), fill=0, width=3)
    small = sheet.resize((WIDTH, HEIGHT), PillowImage.Resampling.BOX)
    return np.asarray(small)[..., None].repeat(3, 2)


def flat_frame(rng: np.random.Generator) -> Pixels:
    """A card of one tone, or a wall: a little uneven in light, and rough where it is plaster."""
    tone = rng.uniform(0.12, 0.92) + rng.uniform(-0.03, 0.03, 3)
    light = rng.uniform(0, 0.04) * _clouds(rng, 200)
    rough = ndimage.gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), rng.uniform(1.5, 4))
    plaster = rng.uniform(0.004, 0.015) * rough / rough.std() if rng.random() < 0.5 else 0.0
    return _pixels(tone + (light + plaster)[..., None])


def star_trails(rng: np.random.Generator) -> Pixels:
    """Arcs of stars about a pole over a dark ground: bright lines that are no rain."""
    sky = np.linspace(rng.uniform(0.02, 0.1, 3), rng.uniform(0.08, 0.25, 3), HEIGHT)[:, None].repeat(WIDTH, 1)
    sheet = PillowImage.new("L", (WIDTH * _FINER, HEIGHT * _FINER), 0)
    draw = ImageDraw.Draw(sheet)
    x, y = rng.uniform(0, WIDTH) * _FINER, rng.uniform(-100, 300) * _FINER
    turned = rng.uniform(8, 45)
    for _ in range(rng.integers(120, 360)):
        radius, start = rng.uniform(8, 800) * _FINER, rng.uniform(0, 360)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.arc(box, start, start + turned, fill=int(rng.integers(50, 256)), width=int(rng.integers(2, 6)))
    trails = np.asarray(sheet.resize((WIDTH, HEIGHT), PillowImage.Resampling.BOX), float)[..., None] / 255
    picture = sky + trails * rng.uniform(0.85, 1, 3)
    ridge = 400 + 40 * ndimage.gaussian_filter1d(rng.standard_normal(WIDTH), 20, mode="wrap") * 4
    picture[np.arange(HEIGHT)[:, None] > ridge] = rng.uniform(0.01, 0.04)
    return _pixels(picture)


def sky(rng: np.random.Generator) -> Pixels:
    """A clear or veiled sky from the zenith to the horizon, without any edge."""
    zenith = np.array([rng.uniform(0.15, 0.5), rng.uniform(0.35, 0.65), rng.uniform(0.65, 0.95)])
    horizon = np.array([rng.uniform(0.7, 0.98), rng.uniform(0.6, 0.9), rng.uniform(0.55, 0.95)])
    height = (np.linspace(0, 1, HEIGHT) ** rng.uniform(0.7, 1.6))[:, None, None]
    veil = rng.uniform(0, 0.08) * _clouds(rng, 60)
    picture = zenith + height * (horizon - zenith) + veil[..., None]
    return _pixels(picture + rng.uniform(-0.5, 0.5, (HEIGHT, WIDTH, 1)) / 255)  # which keeps levels from banding


DRAWINGS: Mapping[str, Callable[[np.random.Generator], Pixels]] = {
    "stripes and test charts": stripes,
    "scanned text": scanned_text,
    "screenshots": screenshot,
    "pixel art": pixel_art,
    "line art": line_art,
    "flat frames": flat_frame,
    "star trails": star_trails,
    "skies and gradients": sky,
}
"""What can be drawn, by stratum."""


def _clouds(rng: np.random.Generator, size: float) -> NDArray[np.float64]:
    """Smooth noise (480, 640) of deviation 1; ``size`` is about the radius of its lumps, in pixels."""
    coarse = ndimage.gaussian_filter(rng.standard_normal((HEIGHT // 8, WIDTH // 8)), size / 8, mode="wrap")
    smooth = ndimage.zoom(coarse, 8, order=3)
    found: NDArray[np.float64] = smooth / smooth.std()
    return found


def _pixels(picture: NDArray[np.float64]) -> Pixels:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _colour(rng: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue
