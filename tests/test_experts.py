"""The experts that ship: the contract of a tool, what they gain on their damage, what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from conservator.degradations import Kind, degrade, mio_recipe, parse_recipe
from conservator.errors import NameNotFoundError
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr
from conservator.networks import make_network
from conservator.resample import bicubic_to
from conservator.tools import Tool, check_tool, make_toolbox
from conservator.tools.experts import EXPERTS

NAMES = [tool.spec.name for tool in EXPERTS]


@pytest.fixture(scope="module", params=NAMES)
def expert(request: pytest.FixtureRequest) -> Tool:
    tool = make_toolbox("conservator")[request.param]
    tool.setup("cpu")
    return tool


def test_an_expert_keeps_the_contract(expert: Tool, coffee: Image) -> None:
    check_tool(expert, coffee[..., :192, :224])


def test_an_expert_leaves_a_clean_photo_alone(expert: Tool, astronaut: Image) -> None:
    if expert.spec.scale > 1:
        pytest.skip("it enlarges")
    photo = astronaut[..., :320, 100:420]
    assert psnr(expert(photo), photo) > 30


@pytest.mark.parametrize(
    ("name", "recipe", "gain"),
    [
        ("denoise_medium", "noise:medium", 4),
        ("dejpeg_severe", "jpeg:very_high", 0.8),
        ("deblur_defocus", "defocus_blur:medium", 1),
        ("derain", "rain:high", 3),
        ("dehaze", "haze:high", 3),
        ("brighten_mild", "low_light:medium", 2),
        ("brighten_dark", "low_light:very_high", 3),
    ],
)
def test_an_expert_gains_on_its_damage(name: str, recipe: str, gain: float) -> None:
    tool = make_toolbox("conservator")[name]
    tool.setup("cpu")
    clean = to_image(data.coffee()[40:360, 100:420])
    gains = []
    for seed in range(3):
        damaged = degrade(clean, parse_recipe(recipe, seed))
        gains.append(psnr(tool(damaged), clean) - psnr(damaged, clean))
    assert np.mean(gains) > gain


@pytest.mark.parametrize("scale", [4])
def test_an_upscaler_beats_bicubic(scale: int) -> None:
    from conservator.degradations import LowResolution

    tool = make_toolbox("conservator")[f"upscale_x{scale}"]
    tool.setup("cpu")
    clean = to_image(data.chelsea()[:288, :448])
    small = degrade(clean, (LowResolution(scale),))
    bicubic = bicubic_to(small, *clean.shape[-2:]).clamp(0, 1)
    assert psnr(tool(small), clean) > psnr(bicubic, clean) + 0.3


def test_deblurring_does_not_explode_on_noise(coffee: Image) -> None:
    clean = coffee[..., :320, :320]
    tool = make_toolbox("conservator")["deblur_defocus"]
    tool.setup("cpu")
    rng = np.random.default_rng(0)
    damaged = degrade(clean, (*mio_recipe((Kind.DEFOCUS_BLUR,), rng), *parse_recipe("noise:low", 1)))
    assert psnr(tool(damaged), clean) > psnr(damaged, clean) - 0.1


@pytest.mark.parametrize("name", ["unet", "bilateral", "upscaler_x4"])
def test_a_fresh_network_changes_almost_nothing(name: str) -> None:
    torch.manual_seed(0)
    network = make_network(name).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        result = network(image)
    if name == "upscaler_x4":
        image = torch.nn.functional.interpolate(image, scale_factor=4, mode="bicubic")
    assert (result - image).abs().max() < 0.01


def test_an_unknown_network_gets_a_sentence() -> None:
    with pytest.raises(NameNotFoundError, match="unet"):
        make_network("unett")
