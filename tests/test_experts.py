"""The experts that ship: the contract of a tool, what they gain on their damage, what they leave alone."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from conservator.degradations import degrade, parse_recipe
from conservator.errors import NameNotFoundError
from conservator.files import sha256
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr
from conservator.networks import make_network
from conservator.networks.bilateral import BilateralNet
from conservator.pool import LocalPool, MemoPool
from conservator.resample import bicubic_to
from conservator.tools import Tool, check_tool, make_toolbox
from conservator.tools.experts import EXPERTS, Expert, Shipped

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


def test_the_hash_of_an_experts_weights_is_known_before_they_are_loaded() -> None:
    folder = Path(str(files("conservator.weights")))
    for tool in EXPERTS:
        assert tool.weights_sha256 == sha256(folder / f"{tool.spec.name}.safetensors")
    assert len({tool.identity for tool in EXPERTS}) == len(EXPERTS)
    loaded = pickle.loads(pickle.dumps(EXPERTS[0]))
    loaded.setup("cpu")
    assert loaded.identity == EXPERTS[0].identity
    for tool in make_toolbox("classical").values():
        assert (tool.weights_sha256, tool.identity) == ("", "")


def test_other_weights_or_other_tiles_are_another_tool() -> None:
    one, two = (Expert(EXPERTS[0].spec, "unet", Shipped(name)) for name in ("denoise_light", "denoise_heavy"))
    wide = Expert(replace(one.spec, overlap=256), "unet", Shipped("denoise_light"))
    again = Expert(one.spec, "unet", Shipped("denoise_light"))
    assert len({one.identity, two.identity, wide.identity}) == 3
    assert again.identity == one.identity


def test_an_expert_that_was_trained_again_gives_no_stale_pixels(coffee: Image) -> None:
    noisy = degrade(coffee[..., :96, :96], parse_recipe("noise:high", 0))
    models = {"denoise": Expert(EXPERTS[0].spec, "unet", Shipped("denoise_light"))}
    with MemoPool(LocalPool(models, max_batch=1)) as pool:
        light = pool.submit("denoise", noisy).result()
        models["denoise"] = Expert(EXPERTS[0].spec, "unet", Shipped("denoise_heavy"))
        heavy = pool.submit("denoise", noisy).result()
        assert (light - heavy).abs().max() > 0.05
        models["denoise"] = Expert(EXPERTS[0].spec, "unet", Shipped("denoise_heavy"))  # the same, made again
        assert torch.equal(pool.submit("denoise", noisy).result(), heavy)
        assert pool.hits == 1


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


@pytest.mark.parametrize("name", ["unet", "bilateral", "bilateral_leaky", "upscaler_x4"])
def test_a_fresh_network_changes_almost_nothing(name: str) -> None:
    torch.manual_seed(0)
    network = make_network(name).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        result = network(image)
    if name == "upscaler_x4":
        image = torch.nn.functional.interpolate(image, scale_factor=4, mode="bicubic")
    assert (result - image).abs().max() < 0.01


@pytest.mark.parametrize("name", ["dehaze", "brighten_dark", "derain", "denoise_medium"])
def test_a_photo_comes_out_the_same_on_however_many_threads(name: str) -> None:
    tool, image = make_toolbox("conservator")[name], to_image(data.coffee()[:320, :400])
    tool.setup("cpu")
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(tool(image))
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_network_of_the_scene_still_learns_where_a_step_pushed_every_activation_below_zero() -> None:
    torch.manual_seed(0)
    network = make_network("bilateral_leaky")
    assert isinstance(network, BilateralNet)
    with torch.no_grad():
        for layer in (*network.encoder, *network.scene, *network.place):
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.bias.fill_(-5)  # type: ignore[union-attr]
    network(torch.rand(1, 3, 64, 64)).square().mean().backward()
    first = network.encoder[0]
    assert isinstance(first, torch.nn.Conv2d)
    assert first.weight.grad is not None
    assert first.weight.grad.abs().max() > 0


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
