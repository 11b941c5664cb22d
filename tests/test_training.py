"""Training for real, in small: an expert learns, a run resumes to the step, a trained expert becomes a tool."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import save
from skimage import data
from test_cli import conservator, process
from test_harm_training import RAW, drawn_sample
from torch import nn

from conservator.degradations import (
    DefocusBlur,
    GaussianNoise,
    Kind,
    LowLight,
    Recipe,
    Severity,
    degrade,
    recipe_to_json,
)
from conservator.errors import ConservatorError
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr
from conservator.networks.unet import ResidualUNet, seeing_more
from conservator.tools import make_toolbox
from conservator.training.data.crops import Crops, Lesson, Photos
from conservator.training.experts.courses import COURSES
from conservator.training.experts.orders import Order, ship, train
from conservator.training.experts.train import Budget, train_expert
from conservator.weights import load_weights, manifest, store_weights
from conservator.weights.chain import links


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean")
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        PillowImage.fromarray(getattr(data, name)()).save(path / f"{name}.png")
    return path


@pytest.fixture(scope="module")
def photos(folder: Path) -> Photos:
    return Photos(folder, held_out_share=1 / 4)


def small_unet() -> nn.Module:
    return ResidualUNet(widths=(16, 24, 32, 32), middle=1)


def quick(steps: int, **changes: object) -> Budget:
    return Budget(**({"steps": steps, "rate": 2e-3, "side": 48, "batch": 4, "workers": 0} | changes))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_denoiser_learns(photos: Photos, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lines: list[str] = []

    def strong_noise(rng: np.random.Generator) -> Lesson:
        return Lesson((GaussianNoise(0.2, int(rng.integers(2**32))),))

    trained = train_expert(small_unet(), strong_noise, photos, tmp_path, quick(250), report=lines.append)
    assert trained.steps == 250
    assert trained.psnr_out > trained.psnr_in + 3
    rows = list(csv.reader((tmp_path / "curve.csv").open()))
    assert rows[0] == ["step", "minutes", "psnr_out"]
    assert int(rows[-1][0]) == 250
    with PillowImage.open(tmp_path / "curve.png") as curve:
        assert curve.size == (720, 400)


def test_a_run_resumes_to_the_step(photos: Photos, tmp_path: Path) -> None:
    damage = COURSES["dejpeg_severe"].damage
    torch.manual_seed(0)
    whole = train_expert(small_unet(), damage, photos, tmp_path / "whole", quick(6))

    class PowerCutError(Exception):
        pass

    calls = 0

    def cut(rng: np.random.Generator):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls > 32 + 4 * 3:  # 32 crops of validation, three steps
            raise PowerCutError
        return damage(rng)

    torch.manual_seed(0)
    import conservator.training.experts.train as tools

    every, tools._CHECKPOINT_SECONDS = tools._CHECKPOINT_SECONDS, 0.0
    try:
        with pytest.raises(PowerCutError):
            train_expert(small_unet(), cut, photos, tmp_path / "cut", quick(6))
    finally:
        tools._CHECKPOINT_SECONDS = every
    resumed = train_expert(small_unet(), damage, photos, tmp_path / "cut", quick(6))
    assert resumed.steps == 6
    for name, value in whole.network.state_dict().items():
        assert torch.allclose(resumed.network.state_dict()[name], value, atol=1e-6), name


def test_a_checkpoint_of_other_settings_is_refused(photos: Photos, tmp_path: Path) -> None:
    damage = COURSES["denoise_light"].damage
    train_expert(small_unet(), damage, photos, tmp_path, quick(1))
    with pytest.raises(ConservatorError, match="batch 4, now 2"):
        train_expert(small_unet(), damage, photos, tmp_path, quick(2, batch=2))


@pytest.mark.parametrize("name", sorted(COURSES))
def test_crops_are_the_same_in_every_run(name: str, photos: Photos) -> None:
    course = COURSES[name]
    crops = Crops(photos.training, course.damage, 64, 3, seed=1, steps=5, whole=course.whole, scale=course.scale)
    damaged, clean = crops[4]
    again, _ = crops[4]
    other, _ = crops[3]
    assert damaged.shape == (3, 12 if name == "deblur" else 3, 64, 64)
    assert clean.shape == (3, 3, 64 * course.scale, 64 * course.scale)
    assert torch.equal(damaged, again)
    assert not torch.equal(damaged, other)


def test_damage_of_the_scene_is_left_to_others() -> None:
    lessons = [COURSES["denoise_medium"].damage(np.random.default_rng(seed)) for seed in range(200)]
    scenes = [lesson for lesson in lessons if lesson.left and lesson.left != lesson.recipe]
    assert 15 < len(scenes) < 80
    for lesson in scenes:
        assert set(lesson.left) < set(lesson.recipe)
        assert {d.kind for d in lesson.left} <= {Kind.LOW_LIGHT, Kind.HAZE, Kind.RAIN}


def test_an_expert_sees_undamaged_crops_and_leaves_the_scene_to_others() -> None:
    lessons = [COURSES["derain"].damage(np.random.default_rng(seed)) for seed in range(600)]
    clean = [not lesson.recipe for lesson in lessons]
    scenes = [lesson.left for lesson in lessons if lesson.left]
    assert 0.05 < np.mean(clean) < 0.12
    assert 0.1 < len(scenes) / len(lessons) < 0.25
    assert {d.kind for left in scenes for d in left} == {Kind.HAZE, Kind.LOW_LIGHT}


def test_damaged_crops_are_as_files_hold_them_and_some_have_one_tone(photos: Photos) -> None:
    def dark(rng: np.random.Generator) -> Lesson:
        return Lesson((LowLight("linear", 0.7),))

    damaged, clean = Crops(photos.training, dark, 32, 300, seed=0, steps=1)[0]
    assert torch.allclose((damaged * 255).round(), damaged * 255, atol=1e-4)
    for batch in (damaged, clean):
        spread = (batch.amax(1) - batch.amin(1)).mean(dim=(1, 2))
        assert 0.01 < float((spread == 0).float().mean()) < 0.1  # black and white


def test_only_what_needs_surroundings_gets_them(photos: Photos) -> None:
    sizes: list[int] = []

    @dataclass(frozen=True)
    class Seen(LowLight):
        def __call__(self, image: Image) -> Image:
            sizes.append(image.shape[-1])
            return super().__call__(image)

    def pointwise(rng: np.random.Generator) -> Lesson:
        return Lesson((Seen("gamma", 0.8),))

    def blurred(rng: np.random.Generator) -> Lesson:
        return Lesson((DefocusBlur(3, 0.1), Seen("gamma", 0.8)))

    for damage, side in ((pointwise, 48), (blurred, 80)):
        sizes.clear()
        damaged, _ = Crops(photos.training, damage, 48, 30, seed=0, steps=1)[0]
        assert damaged.shape == (30, 3, 48, 48)
        assert set(sizes) <= {side, 2 * side, 4 * side}
        assert sizes.count(side) > 20


def test_held_out_photos_are_no_training_photos(photos: Photos) -> None:
    assert len(photos.training) == 3
    assert len(photos.held_out) == 1


@pytest.mark.parametrize("kind", [Kind.RAIN, Kind.HAZE, Kind.NOISE])
def test_a_course_meets_its_damage(kind: Kind) -> None:
    name = {Kind.RAIN: "derain", Kind.HAZE: "dehaze", Kind.NOISE: "denoise_medium"}[kind]
    recipes = [COURSES[name].damage(np.random.default_rng(seed)).recipe for seed in range(200)]
    met = [any(degradation.kind is kind for degradation in recipe) for recipe in recipes]
    assert 0.65 < np.mean(met) < 0.97  # some crops stay clean
    assert len({str(recipe_to_json(recipe)) for recipe in recipes}) > 150
    assert max(d.severity for recipe in recipes for d in recipe) == Severity.VERY_HIGH


@pytest.mark.slow
def test_a_user_trains_an_expert_and_uses_it(folder: Path, tmp_path: Path, own_home: Path) -> None:
    result = conservator(
        *("train", "expert", "my_denoiser", "--photos", folder, "--damage", "noise:very_high", "--removes", "noise"),
        *("--steps", 1, "--start", "nothing", "--workers", 0, "--output", tmp_path / "out", "--device", "cpu"),
    )
    assert result.returncode == 0, result.stderr
    assert "toolbox 'user'" in result.stdout
    tool = make_toolbox("user")["my_denoiser"]
    tool.setup("cpu")
    assert tool.spec.removes == {Kind.NOISE}
    image: Image = to_image(data.coffee()[:100, :90])
    assert tool(image).shape == image.shape


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("denoise_lihgt", {}, "denoise_light"),
        ("mine", {"damage": "noise"}, "say what mine removes"),
        ("derain", {"damage": "rain", "removes": frozenset({Kind.RAIN})}, "choose another name"),
        ("mine", {"damage": "nosie", "removes": frozenset({Kind.NOISE})}, "noise"),
    ],
)
def test_a_mistaken_order_gets_a_sentence(
    name: str, changes: dict[str, object], sentence: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConservatorError, match=sentence):
        train(Order(name, folder, tmp_path, steps=1, **changes))  # type: ignore[arg-type]


def test_an_empty_folder_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="holds no photos"):
        Photos(tmp_path)


def test_stored_weights_are_listed_beside_others(tmp_path: Path) -> None:
    import tomllib

    entry = {"license": "Apache-2.0", "data": 'photos "of mine"', "seed": 3}
    store_weights(tmp_path, "first", {"a": torch.ones(2)}, entry, {"psnr_out": 30.25})
    store_weights(tmp_path, "second", {"b": torch.zeros(3).half()}, entry, {})
    listed = tomllib.loads((tmp_path / "manifest.toml").read_text())
    assert set(listed) == {"first", "second"}
    assert listed["first"]["data"] == 'photos "of mine"'
    assert listed["first"]["scores"] == {"psnr_out": 30.25}
    assert listed["second"]["bytes"] == (tmp_path / "second.safetensors").stat().st_size


def test_every_file_that_ships_is_the_one_listed() -> None:
    for name in manifest():
        tensors, _ = load_weights(name)
        assert tensors


def test_a_course_damages_what_its_expert_restores(photos: Photos) -> None:
    clean = to_image(data.astronaut()[:160, :160])
    worse = [
        psnr(degrade(clean, COURSES["derain"].damage(np.random.default_rng(seed)).recipe), clean) for seed in range(20)
    ]
    assert np.median(worse) < 32


def test_a_checkpoint_of_another_damage_is_refused(folder: Path, tmp_path: Path) -> None:
    order = Order("mine", folder, tmp_path, steps=1, workers=0, damage="noise", removes=frozenset({Kind.NOISE}))
    order = replace(order, start="nothing")
    train(order, lambda line: None)
    with pytest.raises(ConservatorError, match="damage noise, now jpeg"):
        train(replace(order, damage="jpeg"), lambda line: None)


def test_the_same_seed_gives_the_same_weights(photos: Photos, folder: Path, tmp_path: Path) -> None:
    order = Order("deblur_defocus", folder, tmp_path / "a", steps=2, workers=0, start="nothing")
    first = train(order, lambda line: None).network.state_dict()
    second = train(replace(order, output=tmp_path / "b"), lambda line: None).network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_network_that_sees_more_starts_where_the_one_that_sees_less_ended() -> None:
    torch.manual_seed(0)
    knows, sees_more = ResidualUNet(), ResidualUNet(images=4)
    nn.init.normal_(knows.leave.weight, std=0.05)
    sees_more.load_state_dict(seeing_more(knows.state_dict(), 4))
    image = torch.rand(1, 12, 32, 32)
    made = sees_more(image)
    assert torch.allclose(made, knows(image[:, :3]), atol=1e-6)
    assert not torch.allclose(made, image[:, :3], atol=1e-3), "else any two would agree"
    made.square().mean().backward()
    assert sees_more.enter.weight.grad is not None
    assert float(sees_more.enter.weight.grad[:, 12:].abs().amax()) > 0, "it can learn from what it sees more of"


def test_a_deblurring_network_starts_from_a_denoiser_and_becomes_a_tool(folder: Path, tmp_path: Path) -> None:
    order = Order("deblur", folder, tmp_path, steps=1, workers=0, device="cpu")
    trained = train(order, lambda line: None)
    started = load_weights("denoise_medium")[0]
    ship(trained, order, tmp_path / "weights")
    entry = tomllib.loads((tmp_path / "weights" / "manifest.toml").read_text())["deblur"]
    assert entry["network"] == "unet_deblur"
    assert list(entry["made_with"]) == ["denoise_medium"]
    near = {
        name: (trained.network.state_dict()[name] - value.float()).abs().max()
        for name, value in started.items()
        if "enter.weight" not in name
    }
    assert max(near.values()) < 0.01, "one step from the denoiser"
    shown = "tools = make_toolbox('experts'); print(*tools, tools['deblur'].network_name)"
    listed = f"from conservator.tools import make_toolbox; {shown}"
    environment = {**os.environ, "CONSERVATOR_WEIGHTS": str(tmp_path / "weights")}
    told = subprocess.run([sys.executable, "-c", listed], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split()[-2:] == ["deblur", "unet_deblur"]
    assert "deblur" not in make_toolbox("experts")


def test_an_expert_goes_on_from_what_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order("derain", folder, tmp_path, steps=2, workers=0, device="cpu", start="derain")
    train(replace(order, minutes=60), lambda line: None, stop=iter([False, True, True]).__next__)
    lines: list[str] = []
    trained = train(order, lines.append)
    assert any("resumes at step 1" in line for line in lines), "it does not take its own checkpoint for its start"
    was = load_weights("derain")[0]
    moved = [(trained.network.state_dict()[name] - value.float()).abs().max() for name, value in was.items()]
    assert 0 < max(moved) < 0.01
    ship(trained, order, tmp_path / "weights")
    entries = tomllib.loads((tmp_path / "weights" / "manifest.toml").read_text())
    former = {"derain.safetensors": manifest()["derain"]["sha256"]}
    assert entries["derain"]["made_with"] == {**manifest()["derain"]["made_with"], **former}
    assert entries["derain"]["command"].endswith("--start derain")
    known = {**entries, "denoise_medium": manifest()["denoise_medium"]}
    assert links(known)[-1].stale == (), "its former self ships no longer, and is no circle"
    other = {**entries, "denoise_medium": {**manifest()["denoise_medium"], "sha256": "0" * 64}}
    assert len(links(other)[-1].stale) == 1, "what it was made with before, it is still made with"
    landed = {**manifest(), "derain": {**manifest()["derain"], "sha256": "0" * 64}}
    monkeypatch.setattr("conservator.training.experts.orders.manifest", lambda: landed)
    assert train(replace(order, steps=3), lines.append).steps == 3, "it goes on, though it is what ships now"


def test_a_folder_without_weights_gets_a_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "CONSERVATOR_WEIGHTS": str(tmp_path)}
    told = subprocess.run(process("tools", "list"), env=environment, capture_output=True, text=True)
    assert told.returncode == 2
    assert "holds no manifest.toml" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.slow
def test_perceptions_are_trained_and_stored_and_a_broken_run_resumes(folder: Path, tmp_path: Path) -> None:
    from conservator.perception import NetworkPerception, StatisticalPerception, load_perception
    from conservator.training.perception.order import PerceptionOrder
    from conservator.training.perception.train import train_perceptions

    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(2, 7):  # it wants eight photos
        picture = PillowImage.fromarray(data.coffee()[: 100 * i, :300]).resize((320, 320))
        picture.save(photos / f"{i}.png")
    for path in folder.iterdir():
        (photos / path.name).write_bytes(path.read_bytes())
    into, output = tmp_path / "weights", tmp_path / "out"
    order = PerceptionOrder(photos, output, count=10, toolbox="experts", jobs=1)
    found = train_perceptions(order, into)
    assert set(found["perception"]) == set(found["statistics"]) > {"f1_mean", "gain_sign_right", "better_of_two_1dB"}
    listed = tomllib.loads((into / "manifest.toml").read_text())
    assert set(listed) == {"perception", "statistics"}
    assert listed["perception"]["data"] == "the photos of photos, damaged on the fly"
    shard = next((output / "perception").rglob("*.pt"))
    written = shard.stat().st_mtime_ns
    again = train_perceptions(order, into)
    for name in found:  # few samples: what no treatment was accepted for is not a number
        assert again[name] == pytest.approx(found[name], abs=0, nan_ok=True)
    assert shard.stat().st_mtime_ns == written
    picture = to_image(data.coffee()[:200, :300])
    for name, kind in (("statistics", StatisticalPerception), ("perception", NetworkPerception)):
        trained = load_perception(into / f"{name}.safetensors")  # as it is, without being installed
        assert type(trained) is kind
        assert trained.grade(picture).quality != kind.load().grade(picture).quality


def test_the_seed_of_perceptions_is_that_of_their_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conservator.training.perception import train as perception
    from conservator.training.perception.order import PerceptionOrder

    class Fitted(Exception):  # noqa: N818
        """Ends the training where it would begin to fit."""

    def fit(*given: object, seed: int = 0) -> None:
        raise Fitted(seed)

    drawn = [drawn_sample(seed, RAW) for seed in range(200)]
    monkeypatch.setattr(perception, "draw_samples", lambda order: perception.DrawnSamples(drawn, [0] * 200, drawn))
    monkeypatch.setattr(perception, "fit_assessment", fit)
    with pytest.raises(Fitted, match="7"):
        perception.train_perceptions(PerceptionOrder(folder, seed=7), folder)


def _make_two(folder: Path, into: Path) -> list[str]:
    """Two samples of the photos of a folder, without tools; the names of all shards."""
    from conservator.photo import find_photos
    from conservator.training.perception.samples import make_samples

    assert len(make_samples(find_photos(folder), 2, False, "user", 0, 1, into)) == 2
    return sorted(str(path) for path in into.rglob("*.pt"))


@pytest.mark.slow
def test_samples_of_other_photos_are_made_anew(folder: Path, tmp_path: Path) -> None:
    first = _make_two(folder, tmp_path / "shards")
    assert _make_two(folder, tmp_path / "shards") == first  # the same photos: the same shard
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():  # as many, with the same names
        PillowImage.open(path).transpose(PillowImage.Transpose.FLIP_TOP_BOTTOM).save(other / path.name)
    assert len(_make_two(other, tmp_path / "shards")) == len(first) + 1


def test_samples_belong_to_photos_and_weights_by_their_content(folder: Path, tmp_path: Path) -> None:
    from conservator.networks import make_network
    from conservator.photo import find_photos
    from conservator.tools.experts import ExpertRecord
    from conservator.tools.records import WeightsFile, write_tool
    from conservator.tools.user import user_tool_dir
    from conservator.training.perception.samples import samples_folder

    def own(seed: int) -> Path:
        torch.manual_seed(seed)
        stored = save(make_network("bilateral").state_dict())
        weights = WeightsFile(name="mine.safetensors", sha256=hashlib.sha256(stored).hexdigest())
        record = ExpertRecord(
            name="mine", removes=(Kind.HAZE,), network="bilateral", description="Mine.", weights=weights
        )
        write_tool(user_tool_dir(), weights, stored, record)
        return samples_folder(photos, True, "user", 0, tmp_path)

    photos = find_photos(folder)
    first = own(seed=0)
    assert own(seed=0) == first
    second = own(seed=1)
    assert second != first  # an expert of the same name, trained again
    assert samples_folder(photos[1:], True, "user", 0, tmp_path) != second
    assert samples_folder(photos, False, "user", 0, tmp_path) != second


def test_recipes_are_drawn_as_they_always_were() -> None:
    from conservator.training.data.recipes import (
        band_damage,
        mixture,
        random_recipe,
        severities,
        with_kinds,
        without_resizing,
    )

    def drawn(draw: Callable[[np.random.Generator], Recipe], count: int) -> str:
        recipes = [recipe_to_json(draw(np.random.default_rng([seed, 20]))) for seed in range(count)]
        return hashlib.sha256(json.dumps(recipes).encode()).hexdigest()[:16]

    def snowy(rng: np.random.Generator) -> Recipe:
        return with_kinds(frozenset({Kind.SNOW}), without_resizing(random_recipe(rng)), rng)

    # taken before the drawers were put together: planners, agents and perception were trained on these
    assert drawn(random_recipe, 200) == "cfa933cb409da6e2"
    assert drawn(mixture("all"), 60) == "0d203103db53bbc8"
    assert drawn(band_damage("blur", 2, 4.0), 60) == "a948ab42ea568421"
    assert drawn(snowy, 60) == "f7545c6cb6a58feb"
    twice = (GaussianNoise(0.02, 1), GaussianNoise(0.2, 2))
    assert severities(twice) == {Kind.NOISE: max(noise.severity for noise in twice)}
