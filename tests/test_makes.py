"""The makes of damage that trainings and benches draw by name: their physics, and who may draw which."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch

from conservator.degradations import (
    BY_KIND,
    FURTHER,
    HELD_OUT,
    SAMPLED,
    AreaReduction,
    BlurredReduction,
    Degradation,
    EnlargedNoise,
    FilmGrain,
    HexagonBlur,
    JpegCompression,
    Kind,
    LineBlur,
    LowResolution,
    LuminanceNoise,
    RawNoise,
    ReducedJpeg,
    RoomHaze,
    RowBanding,
    Severity,
    ShakenHand,
    ShiftedJpeg,
    Underexposure,
    VeiledRain,
    WebpCompression,
)
from conservator.degradations.sensor import _bayer, _demosaic
from conservator.image import Image, to_array, to_image
from conservator.metrics.fidelity import psnr
from conservator.training.experts.courses import COURSES


def gray(value: float, height: int = 256, width: int = 256) -> Image:
    return torch.full((1, 3, height, width), value)


def point(side: int = 81) -> Image:
    image = torch.zeros(1, 3, side, side)
    image[..., side // 2, side // 2] = 1
    return image


def centre(spot: Image) -> tuple[float, float]:
    """Of mass, from the middle pixel, rows and columns."""
    plane = spot[0, 0] / spot[0, 0].sum()
    place = torch.arange(len(plane)) - len(plane) // 2
    return float((plane.sum(1) * place).sum()), float((plane.sum(0) * place).sum())


def beside(field: torch.Tensor) -> float:
    """Correlation with itself, moved by one pixel to the side."""
    pair = torch.stack([field[..., 1:].flatten(), field[..., :-1].flatten()])
    return float(torch.corrcoef(pair)[0, 1])


# --- who draws what ---------------------------------------------------------------------------------------------------


def test_a_kind_is_drawn_from_the_makes_that_it_always_was() -> None:
    assert {kind.value: [cls.name for cls in classes] for kind, classes in BY_KIND.items()} == {
        "noise": ["gaussian_noise", "poisson_noise", "camera_noise"],
        "jpeg": ["jpeg_compression"],
        "motion_blur": ["motion_blur"],
        "defocus_blur": ["defocus_blur"],
        "gaussian_blur": ["gaussian_blur"],
        "rain": ["rain", "downpour"],
        "haze": ["haze", "uneven_haze"],
        "low_light": ["low_light"],
        "low_resolution": ["low_resolution"],
        "snow": ["snow"],
    }
    assert len({*SAMPLED, *FURTHER, *HELD_OUT}) == len(SAMPLED) + len(FURTHER) + len(HELD_OUT)


def test_trainings_draw_every_make_of_theirs_and_none_that_is_held_out() -> None:
    drawn: set[type[Degradation]] = set()
    for course in COURSES.values():
        for seed in range(150):
            lesson = course.damage(np.random.default_rng(seed))
            drawn |= {type(damage) for damage in (*lesson.recipe, *lesson.left)}
    assert drawn >= set(FURTHER)
    assert not drawn & set(HELD_OUT)


def test_a_make_is_held_out_for_every_kind_that_is_learned_but_weather() -> None:
    kinds = {Kind.NOISE, Kind.JPEG, Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR, Kind.LOW_LIGHT, Kind.LOW_RESOLUTION}
    assert {cls.kind for cls in HELD_OUT} == kinds


# --- noise ------------------------------------------------------------------------------------------------------------


def test_luminance_noise_has_no_colour() -> None:
    noise = LuminanceNoise(0.1, seed=3)(gray(0.5)) - 0.5
    assert torch.equal(noise[:, 0], noise[:, 2])
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)


def test_grain_lies_in_the_middle_tones() -> None:
    def spread(value: float, colour: float = 0.0) -> torch.Tensor:
        return FilmGrain(0.05, 0.8, colour, seed=3)(gray(value)) - value

    assert float(spread(0.5).std()) == pytest.approx(0.05, rel=0.05)
    assert float(spread(0.1).std()) == pytest.approx(0.05 * 2 * 0.3, rel=0.06)
    assert float(spread(0).abs().max()) == float(spread(1).abs().max()) == 0
    assert torch.equal(spread(0.5)[:, 0], spread(0.5)[:, 1])
    assert not torch.equal(spread(0.5, 0.5)[:, 0], spread(0.5, 0.5)[:, 1])
    assert beside(spread(0.5)[0, 0]) > 0.5


@pytest.mark.parametrize("phase", range(4))
def test_demosaicing_finds_one_colour_again(phase: int) -> None:
    colour = torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1)
    masks = _bayer(20, 24, phase)
    mosaic = (colour * masks).sum(1, keepdim=True)
    assert torch.allclose(_demosaic(mosaic, masks), colour.expand(1, 3, 16, 20), atol=1e-6)
    assert masks.sum(dim=(0, 2, 3)).tolist() == [120, 240, 120]


def test_a_sensor_without_noise_keeps_the_photo(photo: Image) -> None:
    still = RawNoise(0, 0, red=2, blue=1.6, saturation=0.5, contrast=0.6, phase=1, seed=0)(photo)
    assert float((still - photo).abs().max()) < 1e-3


def test_noise_of_a_sensor_follows_the_light_the_gains_and_the_mosaic() -> None:
    def noise(value: float, contrast: float = 0.0) -> torch.Tensor:
        return RawNoise(2e-3, 1e-3, 2.2, 1.6, 0.3, contrast, 0, seed=5)(gray(value, 300, 300))[0] - value

    middle = noise(0.5)
    red, green, _ = middle.std(dim=(1, 2)).tolist()
    assert red > 1.2 * green  # its gain is higher
    assert beside(middle[0]) > 0.2  # what lies between two reds is made of them
    assert float(noise(0.5, 0.8).std()) > 1.2 * float(middle.std())  # a steeper curve there
    assert float(noise(1.0).max()) <= 0  # the sensor's white is the end


def test_less_exposure_is_less_light_before_the_curve(photo: Image) -> None:
    def linear(x: Image) -> Image:
        return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)

    dark = Underexposure(stops=2, shot=1e-6, contrast=0, seed=1)(photo)
    assert float((linear(dark) - linear(photo) / 4).abs().mean()) < 1e-3
    steep = Underexposure(stops=2, shot=1e-6, contrast=0.8, seed=1)(photo)
    assert float(steep.mean()) < float(dark.mean())


def test_enlarged_noise_has_its_sigma_and_a_width() -> None:
    noise = EnlargedNoise(0.1, seed=3)(gray(0.5)) - 0.5
    assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
    assert beside(noise[0, 0]) > 0.4


def test_bands_are_rows() -> None:
    noise = (RowBanding(0.06, seed=3)(gray(0.5, 600)) - 0.5)[0]
    rows = noise.mean(dim=2)
    assert float(rows.std()) == pytest.approx(0.06, rel=0.1)
    assert float((noise - rows[..., None]).std()) == pytest.approx(0.02, rel=0.05)
    assert float(torch.corrcoef(rows[:2])[0, 1]) > 0.8


# --- codecs and sizes -------------------------------------------------------------------------------------------------


def test_a_shifted_jpeg_has_its_blocks_elsewhere(photo: Image) -> None:
    assert torch.equal(ShiftedJpeg(20, 0, 0)(photo), JpegCompression(20)(photo))
    shifted = to_array(ShiftedJpeg(5, 3, 0, "4:4:4")(photo)).mean(axis=2)
    steps = np.abs(np.diff(shifted, axis=1)).mean(axis=0)
    by_column = [steps[start::8].mean() for start in range(8)]
    assert int(np.argmax(by_column)) == 4  # between columns 4 and 5: 3 pixels of a block are gone


def test_webp_is_the_one_pillow_writes(photo: Image) -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(to_array(photo, np.uint8)).save(file, format="WEBP", quality=20)
    assert torch.equal(WebpCompression(20)(photo), to_image(np.asarray(PIL.Image.open(file))))


def test_a_reduced_jpeg_keeps_the_size_and_harms(photo: Image) -> None:
    assert ReducedJpeg(10)(photo).shape == photo.shape
    assert psnr(ReducedJpeg(10)(photo), photo) < psnr(ReducedJpeg(60)(photo), photo) - 2


def test_an_area_is_its_mean(photo: Image) -> None:
    small = AreaReduction(4)(photo)
    assert small.shape == (1, 3, 60, 80)
    assert torch.allclose(small[0, :, 3, 5], photo[0, :, 12:16, 20:24].mean(dim=(1, 2)), atol=1e-6)


def test_a_lens_before_the_reduction(photo: Image) -> None:
    sharp = LowResolution(3)(photo)
    assert torch.allclose(BlurredReduction(3, 0, 0, 0)(photo), sharp, atol=1e-6)
    level, upright = BlurredReduction(3, 2.5, 0.1, 0)(photo), BlurredReduction(3, 2.5, 0.1, 90)(photo)

    def detail(image: Image, axis: int) -> float:
        return float(image.diff(dim=axis).abs().mean())

    assert detail(level, -1) < 0.8 * detail(sharp, -1)
    assert detail(level, -2) > detail(upright, -2)


# --- blur -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fade", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("angle", [0, 90, 37.0, -120.5])
def test_a_line_stays_in_place(angle: float, fade: float) -> None:
    trail = LineBlur(17, angle, fade)(point())
    assert float(trail[0, 0].sum()) == pytest.approx(1, abs=1e-4)
    assert centre(trail) == pytest.approx((0, 0), abs=0.02)
    rows, columns = trail[0, 0].nonzero(as_tuple=True)
    reach = max(int(rows.max() - rows.min()), int(columns.max() - columns.min()))
    turn = np.radians(angle)
    assert reach == pytest.approx(17 * max(abs(np.sin(turn)), abs(np.cos(turn))), abs=1.5)


def test_an_even_line_is_even_and_a_fading_one_fades() -> None:
    even = LineBlur(16, 0, 0)(point())[0, 0, 40]
    assert even[34:47].tolist() == pytest.approx([1 / 16] * 13, rel=0.03)
    fading = LineBlur(16, 0, 1)(point())[0, 0, 40]
    lit = fading[fading > 1e-3]
    assert float(lit.max()) > 4 * float(lit.min())
    assert torch.allclose(LineBlur(0, 30, 0)(point()), point(), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_shaken_hand_stays_in_place_and_reaches_as_far_as_it_says(seed: int) -> None:
    trail = ShakenHand(20, seed)(point())
    assert float(trail[0, 0].sum()) == pytest.approx(1, abs=1e-4)
    assert centre(trail) == pytest.approx((0, 0), abs=0.02)
    rows, columns = trail[0, 0].nonzero(as_tuple=True)
    assert max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) == pytest.approx(21, abs=1)


def test_a_hexagon_has_its_area() -> None:
    spot = HexagonBlur(9, 12)(point())[0, 0]
    assert float(spot.sum()) == pytest.approx(1, abs=1e-4)
    assert 1 / float(spot.max()) == pytest.approx(1.5 * np.sqrt(3) * 81, rel=0.03)
    assert torch.allclose(HexagonBlur(0, 0)(point()), point(), atol=1e-6)


# --- weather ----------------------------------------------------------------------------------------------------------


def test_a_veil_is_even_and_bright_places_stay_as_they_are() -> None:
    dry = VeiledRain(density=0, veil=0.25, layers=2, length=20, angle=0, width=1, seed=2)(gray(0.2))
    assert torch.allclose(dry, gray(0.2 * 0.75 + 0.8 * 0.25), atol=1e-6)
    wet = VeiledRain(density=90, veil=0, layers=3, length=20, angle=0, width=1, seed=2)
    assert float(wet(gray(0.2)).mean()) > 0.21
    assert torch.equal(wet(gray(1.0)), gray(1.0))


def test_smoke_fills_a_room_to_its_back() -> None:
    for seed in range(6):
        smoke = RoomHaze(0.4, 0.5, 0.6, beta=1.2, seed=seed)(gray(0.0, 90, 120))
        far = smoke.amax(dim=(2, 3))[0]
        assert far.tolist() == pytest.approx([a * (1 - np.exp(-1.2)) for a in (0.4, 0.5, 0.6)], abs=1e-5)
        assert float(smoke[0, 0].min()) < 0.9 * float(smoke[0, 0].max())


@pytest.mark.parametrize("cls", [*FURTHER, *HELD_OUT], ids=lambda cls: cls.name)
def test_black_and_white_are_damaged_without_fail(cls: type[Degradation]) -> None:
    degradation = cls.sample(Severity.VERY_HIGH, np.random.default_rng(2))
    for value in (0.0, 1.0):
        out = degradation(gray(value, 40, 50))
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
