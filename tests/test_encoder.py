"""An image encoder in Hugging Face format, beside perception or instead of it: a tiny CLIP that lies on disk."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import save_file
from skimage import data
from test_cli import conservator

from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.extras import import_mllm
from conservator.image import Image
from conservator.perception import Blind, StatisticalPerception, study
from conservator.policies import (
    ActorCritic,
    ActorCriticPolicy,
    PolicyContext,
    check_policy,
    load_actor_critic,
    make_policy,
)
from conservator.policies.encoder import ImageEncoder, load_encoder
from conservator.pool import LocalPool
from conservator.session import Session
from conservator.tools import make_toolbox
from conservator.training.data.division import divide_photos
from conservator.training.rl.order import R1Order

if find_spec("transformers") is None:
    pytest.skip("needs the extra: pip install 'conservator[mllm]'", allow_module_level=True)

SEEING = StatisticalPerception.load()
TOOLS = make_toolbox("classical").only("wavelet_denoise", "deblock", "gamma_brighten")
MEAN, DEVIATION = [0.48, 0.45, 0.4], [0.26, 0.26, 0.27]


def write_clip(folder: Path, seed: int) -> Path:
    """A CLIP of two layers with random weights, its text part included, as it would be downloaded."""
    transformers = import_mllm("transformers")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**size, "image_size": 64, "patch_size": 16}
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(text_config={**size, "vocab_size": 64}, vision_config=vision)
    transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": DEVIATION}))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"), 0)


@pytest.fixture(scope="module")
def damaged(coffee: Image) -> Image:
    return study(degrade(coffee[..., :400, :440], parse_recipe("low_light:very_high,noise:high", seed=4)))


def test_features_are_clips_own_of_overview_and_native_crops(clip: Path, damaged: Image) -> None:
    encoder = load_encoder(str(clip))
    found = encoder.encode(damaged)
    assert found.shape == (encoder.width,) == (64,)
    network = import_mllm("transformers").CLIPVisionModel.from_pretrained(clip).eval()
    overview = torch.nn.functional.interpolate(damaged[:1], (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    crops = damaged[1:, :, 96:160, 96:160]
    shown = (torch.cat([overview, crops]) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    with torch.inference_mode():
        pooled = network(pixel_values=shown).pooler_output
    assert torch.allclose(found, torch.cat([pooled[0], pooled[1:].mean(0)]), atol=1e-5)
    alone = encoder.encode(damaged[1:2, :, :50, :40])
    assert alone.shape == found.shape
    assert torch.isfinite(alone).all()


@pytest.mark.parametrize("features", [SEEING.features, ()])
def test_a_policy_sees_by_it_and_finds_it_again(
    features: tuple[str, ...], clip: Path, damaged: Image, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    known = ActorCritic.new(tuple(TOOLS), features, load_encoder(str(clip)))
    known.network.actor.weight.data.mul_(300)
    file, seeing = tmp_path / "r1.safetensors", SEEING
    save_file(known.tensors(), file, known.metadata())
    with LocalPool(TOOLS, max_batch=1) as pool:
        check_policy(ActorCriticPolicy(known, seeing), Session(damaged, TOOLS, pool, seeing))
        session = Session(damaged, TOOLS, pool, seeing)
        state = known.state(session.observe(), seeing)
        assert torch.equal(state[len(features) : len(features) + 64], load_encoder(str(clip)).encode(damaged))
        assert known.width == len(features) + 64
        loaded = make_policy(f"r1:{file}", PolicyContext(pool, seeing, toolbox=TOOLS))
        assert loaded.act(session.observe()).action == ActorCriticPolicy(known, seeing).act(session.observe()).action
        if features:
            with pytest.raises(ConservatorError, match="Blind measures"):
                make_policy(f"r1:{file}", PolicyContext(pool, Blind()))
        else:
            assert make_policy(f"r1:{file}", PolicyContext(pool, Blind())).act(session.observe()), "it measures nothing"


def test_another_encoder_in_its_place_is_refused(clip: Path, tmp_path: Path) -> None:
    other, file = write_clip(tmp_path / "other", 1), tmp_path / "r1.safetensors"
    known = ActorCritic.new(tuple(TOOLS), (), load_encoder(str(clip)))
    swapped = {"encoder": json.dumps({"name": str(other), "sha256": load_encoder(str(clip)).sha256})}
    save_file(known.tensors(), file, known.metadata() | swapped)
    with LocalPool(TOOLS) as pool, pytest.raises(ConservatorError, match="another encoder"):
        make_policy(f"r1:{file}", PolicyContext(pool, SEEING))


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="cannot be loaded as an image encoder"):
        load_encoder(str(tmp_path))
    with pytest.raises(ConservatorError, match="sees nothing"):
        ActorCritic.new(tuple(TOOLS), ())
    with pytest.raises(ConservatorError, match="--encoder"):
        R1Order(photos=tmp_path, encoded="instead")
    with pytest.raises(ConservatorError, match="--setting"):
        R1Order(damaged=tmp_path, setting="1")


def test_equal_weights_are_the_same_encoder(clip: Path) -> None:
    encoder = load_encoder(str(clip))
    again = ImageEncoder(encoder._network, 64, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), "elsewhere")
    assert again.sha256 == encoder.sha256
    assert again.name != encoder.name


def test_the_command_trains_on_the_policys_photos_with_an_encoder(clip: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        PillowImage.fromarray(data.coffee()[20 * i : 20 * i + 140, 30 * i : 30 * i + 140]).save(photos / f"{i}.png")
    mine = divide_photos(sorted(photos.iterdir()), photos).policy
    asked = ["train", "r1", "--photos", str(photos), "--perception", "statistics", "--toolbox", "classical"]
    asked += ["--encoder", str(clip), "--encoded", "instead", "--setting", "1", "--threads", "1"]
    asked += ["--starts", "8", "--explored", "3", "--updates", "1", "--episodes", "4"]
    asked += ["-o", str(tmp_path / "run"), "--states", str(tmp_path / "states")]
    done = conservator(*asked)
    assert done.returncode == 0, done.stderr
    assert f"{len(mine)} of 12 photos belong to the policy" in done.stdout
    claim = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert sorted(claim["photos"]) == sorted(path.name for path in mine)
    assert claim["weights"]["encoder"] == load_encoder(str(clip)).sha256
    curve = (tmp_path / "run" / "curve.csv").read_text().splitlines()
    assert {"quality", "psnr", "ssim", "calls"} <= set(curve[0].split(","))
    assert PillowImage.open(tmp_path / "run" / "progress.webp").format == "WEBP"
    known = load_actor_critic(tmp_path / "run" / "r1.safetensors")
    assert not known.features
    assert known.width == 64
    refused = conservator(*asked, "--setting", "2")
    assert refused.returncode == 2
    assert "setting 1, now 2" in refused.stderr
