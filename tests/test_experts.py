"""The experts that ship: the contract of a tool, what they gain on their damage, what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from conservator.degradations import degrade, parse_recipe
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
    photo = astronaut[..., :320, 100:420]
    assert psnr(bicubic_to(expert(photo), 320, 320), photo) > 30  # resized: some experts enlarge


@pytest.mark.parametrize(
    ("name", "recipe", "gain"),
    [
        ("denoise_medium", "noise:medium", 4),
        ("dejpeg_severe", "jpeg:very_high", 0.8),
        ("derain", "rain:high", 3),
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


def test_experts_replace_the_classical_tools_of_their_kind() -> None:
    names = list(make_toolbox("conservator"))
    assert names[: len(NAMES)] == NAMES
    assert "stretch_brighten" in names
    assert "nlm_denoise" not in names


@pytest.mark.parametrize(
    ("expert", "rival", "recipe"),
    [
        ("denoise_medium", "nlm_denoise", "noise:very_high"),
        ("dejpeg_severe", "deblock", "jpeg:high"),
        ("derain", "median_derain", "rain:high"),
    ],
)
def test_an_expert_beats_a_classical_tool_of_its_kind(expert: str, rival: str, recipe: str) -> None:
    clean = to_image(data.astronaut()[:256, 128:384])
    gains = []
    for name in (expert, rival):
        tool = make_toolbox("experts+classical")[name]
        tool.setup("cpu")
        damaged = [degrade(clean, parse_recipe(recipe, seed)) for seed in range(3)]
        gains.append(np.mean([psnr(tool(image), clean) - psnr(image, clean) for image in damaged]))
    assert gains[0] > gains[1]


def test_an_unknown_network_gets_a_sentence() -> None:
    with pytest.raises(NameNotFoundError, match="unet"):
        make_network("unett")
