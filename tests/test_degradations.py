"""Degradations: the contract of every class, and its physics."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import skimage.data
import torch

from conservator.degradations import (
    BY_KIND,
    DEGRADATIONS,
    CameraNoise,
    DefocusBlur,
    Degradation,
    GaussianBlur,
    GaussianNoise,
    Haze,
    JpegCompression,
    Kind,
    LowLight,
    LowResolution,
    MotionBlur,
    PoissonNoise,
    Rain,
    Range,
    Severity,
    Snow,
    by_severity,
    check_degradation,
    degrade,
)
from conservator.errors import ImageError, RecipeError
from conservator.image import Image, digest, to_array, to_image
from conservator.metrics.fidelity import psnr
from conservator.resample import bicubic_resize

LEVELS = [severity for severity in Severity if severity is not Severity.NONE]


def gray(value: float, height: int = 256, width: int = 256) -> Image:
    return torch.full((1, 3, height, width), value)


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", DEGRADATIONS, ids=lambda cls: cls.name)
def test_every_degradation_keeps_the_contract(cls: type[Degradation]) -> None:
    check_degradation(cls)


def test_every_kind_has_a_degradation_and_its_default() -> None:
    assert set(BY_KIND) == set(Kind)
    assert all(BY_KIND.values())
    assert BY_KIND[Kind.NOISE] == (GaussianNoise, PoissonNoise, CameraNoise)
    assert all(cls.kind == kind for kind, classes in BY_KIND.items() for cls in classes)


@dataclass(frozen=True)
class _Broken(Degradation):
    """Keeps the contract until a test says which part to break."""

    kind: ClassVar[Kind] = Kind.LOW_LIGHT
    flaw: ClassVar[str] = ""
    gain: Annotated[float, Range(0, 2)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        if cls.flaw == "none":
            return cls(0.5)
        gain = by_severity(severity, 0.9, 0.8, 0.7, 0.6)
        return cls(1.5 - gain if cls.flaw == "order" else gain)

    @property
    def severity(self) -> Severity:
        return Severity.LOW if self.flaw == "severity" else Severity(round(10 - 10 * self._sampled))

    @property
    def _sampled(self) -> float:
        return 1.5 - self.gain if self.flaw == "order" else self.gain

    def __call__(self, image: Image) -> Image:
        match self.flaw:
            case "range":
                return image + 0.1
            case "shape":
                return image[..., :-1] if image.shape[-1] > 1 else image
            case "dtype":
                return image.double() * self.gain
            case "random":
                return image * self.gain * torch.rand(1)
            case "in place":
                return image.mul_(self.gain)
        return image * self.gain


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("none", "must raise ValueError for severity NONE"),
        ("order", "mean PSNR must fall"),
        ("severity", "was sampled as medium, but says low"),
        ("range", r"expected \[0, 1\]"),
        ("shape", "gives shape"),
        ("dtype", "expected float32"),
        ("random", "other pixels the second time"),
        ("in place", "changes its input"),
    ],
)
def test_check_degradation_finds_the_flaw(flaw: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_degradation(_Broken)
    monkeypatch.setattr(_Broken, "flaw", flaw)
    with pytest.raises(AssertionError, match=sentence):
        check_degradation(_Broken)


@pytest.mark.parametrize("cls", DEGRADATIONS, ids=lambda cls: cls.name)
def test_first_item_of_a_batch_looks_as_it_would_alone(cls: type[Degradation], photo: Image) -> None:
    degradation = cls.sample(Severity.HIGH, np.random.default_rng(1))
    both = degradation(torch.cat([photo, photo.flip(-1)]))
    assert torch.allclose(both[:1], degradation(photo), atol=1e-6)


def test_random_fields_differ_between_items_of_a_batch(photo: Image) -> None:
    pair = torch.cat([photo, photo])
    for cls in (GaussianNoise, PoissonNoise, CameraNoise, Rain, Haze):
        first, second = cls.sample(Severity.HIGH, np.random.default_rng(1))(pair)
        assert not torch.equal(first, second), cls.name


HASHES = """
import sys, torch, numpy as np, skimage.data
torch.set_num_threads(int(sys.argv[1]))
from conservator.degradations import DEGRADATIONS, Severity
from conservator.image import digest, to_image
image = to_image(skimage.data.coffee()[:97, :131])
for cls in DEGRADATIONS:
    print(cls.name, digest(cls.sample(Severity.HIGH, np.random.default_rng(5))(image)))
"""


def test_another_process_with_other_threads_makes_the_same_bytes() -> None:
    run = subprocess.run([sys.executable, "-c", HASHES, "2"], capture_output=True, text=True, check=True)
    image = to_image(skimage.data.coffee()[:97, :131])
    here = {cls.name: digest(cls.sample(Severity.HIGH, np.random.default_rng(5))(image)) for cls in DEGRADATIONS}
    assert dict(line.split() for line in run.stdout.splitlines()) == here


def test_degrade_applies_from_first_to_last(photo: Image) -> None:
    dark, noise = LowLight("linear", 0.5), GaussianNoise(0.1, seed=1)
    assert torch.equal(degrade(photo, (dark, noise)), noise(dark(photo)))
    assert not torch.equal(degrade(photo, (noise, dark)), degrade(photo, (dark, noise)))
    with pytest.raises(ImageError):
        degrade(photo[0], (dark,))


# --- what each one does -----------------------------------------------------------------------------------------------


def test_gaussian_noise_has_its_sigma() -> None:
    noise = GaussianNoise(25.5 / 255, seed=3)(gray(0.5)) - 0.5
    assert float(noise.std()) == pytest.approx(0.1, rel=0.01)
    assert abs(float(noise.mean())) < 1e-3


def test_poisson_noise_variance_follows_the_light() -> None:
    ramp = torch.arange(64, 192).div(255).view(1, 1, 1, -1).expand(1, 3, 2000, -1).contiguous()  # 128 levels: n = 128
    noise = PoissonNoise(0.8, seed=3)(ramp) - ramp
    for column in (0, 64):
        x = float(ramp[0, 0, 0, column])
        assert float(noise[..., column].var()) == pytest.approx(0.8**2 * x / 128, rel=0.08)


def test_camera_noise_is_stronger_in_the_light_it_was_drawn_in_and_correlated() -> None:
    noise = (CameraNoise(read=0.001, shot=1e-3, seed=3)(gray(0.5)) - 0.5)[0]
    linear = ((0.5 + 0.055) / 1.055) ** 2.4
    slope = 1.055 / 2.4 * linear ** (1 / 2.4 - 1)  # of the sRGB curve there
    assert float(noise.std()) == pytest.approx(slope * (1e-3 * linear + 1e-6) ** 0.5, rel=0.05)
    red, green = noise[0].flatten(), noise[1].flatten()
    assert 0.4 < float(torch.corrcoef(torch.stack([red, green]))[0, 1]) < 0.6
    beside = torch.corrcoef(torch.stack([noise[0, :, 1:].flatten(), noise[0, :, :-1].flatten()]))[0, 1]
    assert float(beside) > 0.2


def test_gaussian_blur_agrees_with_scipy(photo: Image) -> None:
    ours = to_array(GaussianBlur(2.3)(photo))
    theirs = scipy.ndimage.gaussian_filter(to_array(photo).astype(np.float64), (2.3, 2.3, 0), radius=10, mode="nearest")
    assert np.abs(ours - theirs).max() < 1e-5
    assert torch.allclose(GaussianBlur(0.0)(photo), photo)


def test_defocus_spreads_a_point_over_a_disk() -> None:
    image = torch.zeros(1, 3, 31, 31)
    image[..., 15, 15] = 1
    spot = DefocusBlur(3, 0.1)(image)[0, 0]
    y, x = np.mgrid[-15:16, -15:16]
    disk = torch.from_numpy(x**2 + y**2 <= 9)
    assert int(disk.sum()) == 29
    assert torch.allclose(spot, disk.float() / 29, atol=1e-6)
    assert float(DefocusBlur(6, 0.5)(image).sum()) == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize(("angle", "step"), [(0, (0, -1)), (90, (-1, 0)), (-90, (1, 0)), (45, (-1, -1))])
def test_motion_blur_spreads_a_point_to_one_side_along_a_line(angle: float, step: tuple[int, int]) -> None:
    image = torch.zeros(1, 3, 61, 61)
    image[..., 30, 30] = 1
    trail = MotionBlur(10, 3, angle)(image)[0, 0]
    assert float(trail.sum()) == pytest.approx(1, abs=1e-5)
    line = [float(trail[30 + step[0] * i, 30 + step[1] * i]) for i in range(10)]
    assert sum(line) > 0.99
    assert sum(line[:4]) > 2 * sum(line[4:])
    assert float(trail[30 - step[0], 30 - step[1]]) == 0


def test_rain_brightens_along_its_direction() -> None:
    wet = Rain(value=60, length=30, angle=20, width=3, seed=2)(gray(0.1, 400, 400))
    assert float(wet.min()) >= 0.1 - 1e-6
    assert float(wet.max()) <= 0.8
    field = wet[0, 0].numpy() - wet.mean().item()

    def correlation(degrees: float) -> float:  # with itself, moved 12 px along a line that leans from the vertical
        dy, dx = -12 * np.cos(np.radians(degrees)), 12 * np.sin(np.radians(degrees))
        return float((field * scipy.ndimage.shift(field, (dy, dx), order=1))[20:-20, 20:-20].mean() / field.var())

    assert correlation(20) > 0.3
    assert max(correlation(-20), correlation(90), correlation(0)) < correlation(20) / 2


def test_more_rain_for_a_greater_value() -> None:
    dark = gray(0.0)
    light, heavy, none = (float(Rain(value, 30, 0, 3, seed=2)(dark).mean()) for value in (25, 100, 0))
    assert none == 0
    assert 2.5 < heavy / light < 4.5


def test_snow_lies_before_the_scene_and_a_wind_draws_it_out() -> None:
    still, blown = (Snow(density=8, size=2, wind=wind, angle=90, seed=3)(gray(0.1, 300, 300)) for wind in (0, 12))
    for snow in (still, blown):
        assert float(snow.min()) >= 0.1 - 1e-6
        assert 0.5 < float(snow.max()) <= 0.95 + 1e-6
    field = (blown - blown.mean())[0, 0]

    def moved(down: int, right: int) -> float:
        return float((field * field.roll((down, right), (0, 1))).mean() / field.var())

    assert moved(0, 12) > moved(12, 0) + 0.2
    more = Snow(density=32, size=2, wind=0, angle=0, seed=3)(gray(0.1, 300, 300))
    assert float((more - 0.1).mean()) > 2.5 * float((still - 0.1).mean())


def test_haze_follows_the_scattering_model_with_a_depth_map(tmp_path: Path, photo: Image) -> None:
    depth = np.repeat(np.array([[0, 20000]], np.uint16), 2, axis=0)
    PIL.Image.fromarray(depth).save(tmp_path / "depth.png")
    hazy = Haze(airlight=0.9, beta=1.5, depth_seed=0, depth=str(tmp_path / "depth.png"))(photo)
    assert torch.allclose(hazy[..., 0], photo[..., 0], atol=1e-6)
    t = np.exp(-1.5)
    assert torch.allclose(hazy[..., -1], photo[..., -1] * t + 0.9 * (1 - t), atol=1e-5)


def test_haze_without_a_map_is_thicker_at_the_top() -> None:
    for seed in range(5):
        hazy = Haze(airlight=1, beta=1, depth_seed=seed)(gray(0.0, 90, 120))
        assert float(hazy[..., :20, :].mean()) > float(hazy[..., -20:, :].mean()) + 0.2
        assert float(hazy.max()) == pytest.approx(1 - np.exp(-1), abs=1e-5)


def test_depth_maps_that_cannot_be_used_are_refused(tmp_path: Path, photo: Image) -> None:
    PIL.Image.new("L", (4, 4), 9).save(tmp_path / "8bit.png")
    PIL.Image.new("I;16", (4, 4), 0).save(tmp_path / "zero.png")
    PIL.Image.new("L", (4, 4), 9).save(tmp_path / "other.bmp")
    PIL.Image.fromarray(np.arange(10_000, dtype=np.uint16).reshape(100, 100)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    for name, reason in {
        "missing.png": "No such file",
        "8bit.png": "expected a 16-bit gray PNG",
        "zero.png": "zero everywhere",
        "other.bmp": "cannot read",
        "cut.png": "cannot read",
    }.items():
        with pytest.raises(RecipeError, match=reason) as caught:
            Haze(0.9, 1.0, 0, str(tmp_path / name))(photo)
        assert name in str(caught.value)


def test_low_light_changes_v_of_hsv_alone(photo: Image) -> None:
    bright = photo.amax(1) > 0.3
    before = photo.amax(1)
    for degradation, after in (
        (LowLight("shift", 40 / 255), before - 40 / 255),
        (LowLight("gamma", 0.5), before**2),
        (LowLight("linear", 0.5), before / 2),
    ):
        dark = degradation(photo)
        assert torch.allclose(dark.amax(1)[bright], after[bright], atol=1e-5)
        hue, same = (x / x.amax(1, keepdim=True).clamp(min=1e-6) for x in (photo, dark))
        assert torch.allclose(hue.movedim(1, -1)[bright], same.movedim(1, -1)[bright], atol=1e-4)
    assert float(LowLight("shift", 0.2)(gray(0.1)).max()) == 0


def test_jpeg_is_the_one_pillow_writes(photo: Image) -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(to_array(photo, np.uint8)).save(file, format="JPEG", quality=20, subsampling="4:2:0")
    expected = to_image(np.asarray(PIL.Image.open(file)))
    assert torch.equal(JpegCompression(20)(photo), expected)
    assert psnr(JpegCompression(20, "4:4:4")(photo), photo) > psnr(expected, photo)


def test_jpeg_refuses_what_libjpeg_cannot_write() -> None:
    with pytest.raises(ImageError, match="65500"):
        JpegCompression(50)(torch.zeros(1, 3, 1, 65_501))


def test_low_resolution_stays_small(photo: Image) -> None:
    assert LowResolution(4)(photo).shape == (1, 3, 60, 80)
    assert torch.equal(LowResolution(4)(photo), bicubic_resize(photo, 0.25))
    assert LowResolution(4)(photo[..., :9, :7]).shape == (1, 3, 3, 2)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GaussianNoise(25.0, 0), r"gaussian_noise: sigma is 25.0, expected a number in \[0, 1\]"),
        (lambda: GaussianNoise(float("nan"), 0), "sigma is nan"),
        (lambda: GaussianNoise(0.1, -1), "seed is -1"),
        (lambda: GaussianNoise(0.1, 1.5), "seed is 1.5, expected a whole number"),  # type: ignore[arg-type]
        (lambda: GaussianNoise(True, 0), "sigma is True, expected a number"),
        (lambda: JpegCompression(0), r"quality is 0, expected a whole number in \[1, 100\]"),
        (lambda: JpegCompression(50, "4:1:1"), "expected one of 4:4:4, 4:2:2, 4:2:0"),  # type: ignore[arg-type]
        (lambda: LowLight("dim", 0.5), "mode is 'dim', expected one of shift, gamma, linear"),  # type: ignore[arg-type]
        (lambda: Haze(0.9, 1.0, 0, 7), "depth is 7, expected text or null"),  # type: ignore[arg-type]
        (lambda: LowResolution(10**400), "factor is"),
    ],
)
def test_impossible_values_are_refused_with_a_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        make()


def test_numpy_scalars_become_plain_values() -> None:
    noise = GaussianNoise(np.float32(0.5), np.int64(7))  # type: ignore[arg-type]
    assert (type(noise.sigma), type(noise.seed)) == (float, int)
    assert type(GaussianNoise(0, 1).sigma) is float
