"""Consistency: laws that hold on real photos, and files of other programs whose tables are read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from skimage import data

from conservator.degradations.blur import GaussianBlur
from conservator.degradations.held_out import EnlargedNoise
from conservator.degradations.noise import CameraNoise, FilmGrain, GaussianNoise, LuminanceNoise
from conservator.degradations.weather import Downpour, Rain, VeiledRain
from conservator.errors import ImageError
from conservator.image import in_8_bits, to_image
from conservator.kinds import Severity
from conservator.metrics.consistency import jpeg_cells, noise_structure, streaks
from conservator.photo import JpegTables, Photo, load_photo

PHOTOS = {name: getattr(data, name)()[:240, :304] for name in ("astronaut", "coffee", "chelsea", "rocket")}
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


GRAINS = {
    "white": GaussianNoise(12 / 255, 1),
    "faint": GaussianNoise(3 / 255, 1),
    "gray": LuminanceNoise(12 / 255, 1),
    "coarse": EnlargedNoise(12 / 255, 1),
    "film": FilmGrain(12 / 255, 0.8, 0.5, 1),
    "camera": CameraNoise(0.002, 0.003, 1),
}


def as_jpeg(pixels: NDArray[np.uint8], folder: Path, **options: object) -> Photo:
    path = folder / "photo.jpg"
    PillowImage.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return load_photo(path)


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_noise_that_is_taken_away_is_no_structure_and_texture_is(name: str, grain: str) -> None:
    clean = to_image(PHOTOS[name])
    noisy = in_8_bits(GRAINS[grain](clean))
    removed = noise_structure(noisy, clean)
    smoothed = noise_structure(clean, GaussianBlur(1.0)(clean))
    assert removed < 0.5 < 0.8 < smoothed
    both = noise_structure(noisy, GaussianBlur(1.5)(clean))
    assert removed < both < smoothed


def test_structure_of_a_change_needs_a_change() -> None:
    clean = to_image(PHOTOS["coffee"])
    assert np.isnan(noise_structure(clean, clean))
    with pytest.raises(ImageError, match="expected the same"):
        noise_structure(clean, clean[..., 1:])


def test_black_borders_are_no_structure() -> None:
    clean = torch.zeros(1, 3, 240, 304)
    clean[..., 80:160, 80:240] = 0.5
    noisy = torch.where(clean > 0, GaussianNoise(0.05, 1)(clean), clean)
    assert noise_structure(noisy, clean) < 0.2


RAINS = {
    "rain": Rain(60, 30, 12.0, 3, 1),
    "downpour": Downpour.sample(Severity.MEDIUM, np.random.default_rng(3)),
    "veiled": VeiledRain.sample(Severity.MEDIUM, np.random.default_rng(3)),
}


@pytest.mark.parametrize("rain", RAINS)
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_rain_that_is_taken_away_is_streaks(name: str, rain: str) -> None:
    clean = to_image(PHOTOS[name])
    assert streaks(in_8_bits(RAINS[rain](clean)), clean) < 0.7


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "hubble_deep_field"])
def test_stars_texture_and_noise_are_no_streaks(name: str) -> None:
    clean = to_image(np.ascontiguousarray(getattr(data, name)()[:240, :304]))
    assert streaks(clean, GaussianBlur(1.5)(clean)) > 0.85
    assert streaks(GaussianNoise(0.05, 1)(clean), clean) > 0.85


def test_streaks_of_a_study_count_together() -> None:
    clean = to_image(PHOTOS["coffee"])
    rainy = RAINS["rain"](clean)
    noisy = GaussianNoise(0.05, 1)(clean)
    apart = streaks(rainy, clean), streaks(noisy, clean)
    together = streaks(torch.cat([rainy, noisy]), torch.cat([clean, clean]))
    assert apart[0] < together < apart[1]
    assert np.isnan(streaks(clean, clean))
    with pytest.raises(ImageError, match="expected the same"):
        streaks(clean, clean[..., 1:])


def test_rain_that_is_added_was_not_taken_away() -> None:
    clean = to_image(PHOTOS["coffee"])
    rainy = RAINS["rain"](clean)
    assert streaks(clean, rainy) > 0.9


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(PHOTOS)),
    quality=st.integers(5, 100),
    subsampling=st.sampled_from(SAMPLINGS),
    corner=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    progressive=st.booleans(),
)
def test_the_original_of_a_jpeg_falls_into_its_cells(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    quality: int,
    subsampling: str,
    corner: tuple[int, int],
    progressive: bool,
) -> None:
    pixels = np.ascontiguousarray(PHOTOS[name][corner[0] :, corner[1] :])  # odd sizes, too
    folder = tmp_path_factory.mktemp("jpeg")
    photo = as_jpeg(pixels, folder, quality=quality, subsampling=subsampling, progressive=progressive)
    assert photo.jpeg is not None
    assert photo.jpeg.subsampling == subsampling
    assert jpeg_cells(photo.image, to_image(pixels), photo.jpeg) < 1e-4
    moved = to_image(np.roll(pixels, 4, axis=1))
    assert jpeg_cells(photo.image, moved, photo.jpeg) > 1e-3


@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_a_crop_of_a_jpeg_has_its_cells_where_its_blocks_are(tmp_path: Path, subsampling: str) -> None:
    pixels = PHOTOS["chelsea"]
    photo = as_jpeg(pixels, tmp_path, quality=60, subsampling=subsampling)
    assert photo.jpeg is not None
    before, original = (image[..., 5:, 9:] for image in (photo.image, to_image(pixels)))
    assert jpeg_cells(before, original, photo.jpeg, top=11, left=7) < 1e-4


def test_more_change_leaves_more_cells(tmp_path: Path) -> None:
    pixels = PHOTOS["coffee"]
    photo = as_jpeg(pixels, tmp_path, quality=85, subsampling="4:2:0")
    assert photo.jpeg is not None
    shares = [
        jpeg_cells(photo.image, GaussianNoise(sigma / 255, 3)(to_image(pixels)), photo.jpeg) for sigma in (0, 2, 5, 15)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 1e-4 < 0.01 < shares[1]


def test_a_study_counts_as_one(tmp_path: Path) -> None:
    photo = as_jpeg(PHOTOS["coffee"], tmp_path, quality=85, subsampling="4:2:0")
    assert photo.jpeg is not None
    parts = [photo.image[..., :128, 16 * i : 16 * i + 128] for i in (0, 9)]
    changed = [GaussianNoise(0.02, 3)(part) for part in parts]
    one_by_one = [jpeg_cells(was, now, photo.jpeg) for was, now in zip(parts, changed, strict=True)]
    together = jpeg_cells(torch.cat(parts), torch.cat(changed), photo.jpeg)
    assert min(one_by_one) <= together <= max(one_by_one)


def test_pictures_without_a_usable_block_have_no_share(tmp_path: Path) -> None:
    tables = JpegTables(((16,) * 64,), "4:4:4")
    black, small = torch.zeros(1, 3, 64, 64), torch.full((1, 3, 12, 12), 0.5)
    assert np.isnan(jpeg_cells(black, black, tables))
    assert np.isnan(jpeg_cells(small, small, tables))
    with pytest.raises(ImageError, match="expected the same"):
        jpeg_cells(black, small, tables)


def test_tables_of_files_by_kind(tmp_path: Path) -> None:
    pixels = PHOTOS["coffee"]
    custom = [[1] * 64, list(range(2, 66))]
    photo = as_jpeg(pixels, tmp_path, qtables=custom, subsampling="4:4:4")
    assert photo.jpeg == JpegTables((tuple(custom[0]), tuple(custom[1]), tuple(custom[1])), "4:4:4")
    gray = as_jpeg(pixels[..., 0], tmp_path, quality=50).jpeg
    assert gray is not None
    assert len(gray.steps) == 1
    assert gray.steps[0][:3] == (16, 11, 10)  # table K.1 of ITU-T T.81, row by row
    never_ycc = as_jpeg(pixels, tmp_path, quality=50, keep_rgb=True)
    assert never_ycc.jpeg is None
    cmyk = tmp_path / "cmyk.jpg"
    PillowImage.fromarray(pixels).convert("CMYK").save(cmyk)
    assert load_photo(cmyk).jpeg is None
    png = tmp_path / "photo.png"
    PillowImage.fromarray(pixels).save(png)
    assert load_photo(png).jpeg is None


def test_a_photo_that_was_turned_upright_has_no_tables(tmp_path: Path) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    photo = as_jpeg(PHOTOS["coffee"], tmp_path, quality=50, exif=exif)
    assert photo.image.shape[-2:] == (304, 240)
    assert photo.jpeg is None


def test_a_file_whose_tables_are_missing_or_zero_has_none(tmp_path: Path) -> None:
    file = io.BytesIO()
    PillowImage.fromarray(PHOTOS["coffee"]).save(file, "JPEG", quality=50)
    whole = file.getvalue()
    at = whole.index(b"\xff\xdb") + 5
    path = tmp_path / "photo.jpg"
    path.write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
    assert load_photo(path, allow_truncated=True).jpeg is None
