"""Pictures beside each other at full size with captions, as one PNG: what a table cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from conservator.evaluation.why import Strip
from conservator.files import replacing
from conservator.image import to_array

_GAP = 8
_LINE = 16
"""Pixels of a line of text."""


def save_strips(strips: Sequence[Strip], path: Path) -> None:
    """Write the strips below each other, each with its title and a caption over every picture; nothing without any."""
    if not strips:
        return
    drawn = [_drawn(strip) for strip in strips]
    sheet = PillowImage.new("RGB", (max(one.width for one in drawn), sum(one.height for one in drawn)), "white")
    top = 0
    for one in drawn:
        sheet.paste(one, (0, top))
        top += one.height
    with replacing(path) as file:
        sheet.save(file, "PNG")


def _drawn(strip: Strip) -> PillowImage.Image:
    font = ImageFont.load_default(12)
    pictures = [PillowImage.fromarray(to_array(image, np.uint8)) for _, image in strip.pictures]
    widths = [
        max(picture.width, round(font.getlength(caption)))
        for picture, (caption, _) in zip(pictures, strip.pictures, strict=True)
    ]
    title = round(font.getlength(strip.title))
    size = (
        max(title, sum(widths) + _GAP * len(widths)) + _GAP,
        2 * _LINE + max(picture.height for picture in pictures) + 3 * _GAP,
    )
    sheet = PillowImage.new("RGB", size, "white")
    pen, left = ImageDraw.Draw(sheet), _GAP
    pen.text((left, _GAP), strip.title, "black", font)
    for picture, width, (caption, _) in zip(pictures, widths, strip.pictures, strict=True):
        pen.text((left, _GAP + _LINE), caption, "black", font)
        sheet.paste(picture, (left, _GAP + 2 * _LINE + _GAP // 2))
        left += width + _GAP
    return sheet
